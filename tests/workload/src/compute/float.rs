//! Floating point: a product of matrices of f64, which the compiler makes of SSE2's packed instructions, the ones that
//! every x86-64 processor has; and a sum of products in x87's extended precision, which is what C calls `long double`.

use std::arch::asm;
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

/// One multiplication and one addition for each step.
pub(crate) fn x87() -> io::Result<Repetition> {
    const STEPS: u32 = 4096;
    let mut random = Random::new();
    let mut vector =
        || -> Vec<f64> { (0..STEPS).map(|_| f64::from(random.next()) / f64::from(1 << 16)).collect() };
    let (a, b) = (vector(), vector());
    let work = move || Ok(extended_product(black_box(&a), black_box(&b)).to_bits());
    Ok(Repetition { units: STEPS, answer: 0x4290_3a01_8fa9_ca7a, work: Box::new(work) })
}

/// The sum of the products, rounded once, at the end.
fn extended_product(a: &[f64], b: &[f64]) -> f64 {
    let (count, mut sum) = (a.len().min(b.len()), 0.0f64);
    // SAFETY: reads `count` elements of each and writes the sum; what it has put onto the stack of registers it takes off.
    unsafe {
        asm!(
            "fldz",
            "test {count}, {count}",
            "jz 3f",
            "2:",
            "fld qword ptr [{a}]",
            "fmul qword ptr [{b}]",
            "faddp",
            "add {a}, 8",
            "add {b}, 8",
            "dec {count}",
            "jnz 2b",
            "3:",
            "fstp qword ptr [{sum}]",
            a = inout(reg) a.as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            count = inout(reg) count => _,
            sum = in(reg) &raw mut sum,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    sum
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

    #[test]
    fn a_sum_of_products_keeps_what_doubles_would_lose() {
        let large = 2f64.powi(53);
        assert_eq!(extended_product(&[large, 1.0, -large], &[1.0; 3]), 1.0);
        assert_eq!(extended_product(&[], &[1.0]), 0.0);
    }
}
