//! Floating point: a product of matrices of f64, which the compiler makes of SSE2's packed instructions, the ones that
//! every x86-64 processor has.

use std::hint::black_box;
use std::io;

use crate::data::Random;
use crate::measure::Repetition;

/// Rows and columns.
const SIZE: usize = 64;

type Matrix = Vec<[f64; SIZE]>;

/// One multiplication and one addition for each step.
pub(crate) fn matmul() -> io::Result<Repetition> {
    const STEPS: u32 = (SIZE * SIZE * SIZE) as u32;
    let mut random = Random::new();
    let mut matrix = || -> Matrix {
        (0..SIZE).map(|_| std::array::from_fn(|_| f64::from(random.next()) / f64::from(1 << 16))).collect()
    };
    let (a, b) = (matrix(), matrix());
    let mut product = vec![[0.0; SIZE]; SIZE];
    let work = move || {
        multiply(black_box(&a), black_box(&b), black_box(&mut product));
        Ok((product[0][1] + product[SIZE - 1][SIZE - 2]).to_bits())
    };
    Ok(Repetition { units: STEPS, answer: 0x4241_2611_7062_6d1d, work: Box::new(work) })
}

/// In the order that reads both matrices along their rows.
fn multiply(a: &Matrix, b: &Matrix, product: &mut Matrix) {
    for (row, a) in product.iter_mut().zip(a) {
        row.fill(0.0);
        for (factor, b) in a.iter().zip(b) {
            for (sum, b) in row.iter_mut().zip(b) {
                *sum += factor * b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_with_the_unit_matrix_is_the_other_factor() {
        let unit: Matrix = (0..SIZE)
            .map(|row| std::array::from_fn(|column| if row == column { 1.0 } else { 0.0 }))
            .collect();
        let other: Matrix =
            (0..SIZE).map(|row| std::array::from_fn(|column| (row * SIZE + column) as f64)).collect();
        let mut product = vec![[0.0; SIZE]; SIZE];
        multiply(&unit, &other, &mut product);
        assert_eq!(product, other);
    }
}
