//! Calls: of a function by itself, and of a comparison by a sort.

use std::cmp::Ordering;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::io;

use crate::data::Random;
use crate::measure::Repetition;

/// The Fibonacci numbers by their definition: little but calls and returns.
pub(crate) fn fib() -> io::Result<Repetition> {
    const N: u32 = 22;
    /// fib(n) makes 2 fib(n + 1) - 1 calls, itself included.
    const CALLS: u32 = 2 * 28_657 - 1;
    Ok(Repetition { units: CALLS, answer: 17_711, work: Box::new(|| Ok(fibonacci(black_box(N)))) })
}

#[inline(never)]
fn fibonacci(n: u32) -> u64 {
    if n < 2 {
        return n.into();
    }
    let one = fibonacci(n - 1);
    // The compiler would make a loop of the second call if it saw what becomes of its result.
    one + black_box(fibonacci(n - 2))
}

/// The C library's qsort(3) over integers: it calls the comparison through a pointer.
pub(crate) fn qsort() -> io::Result<Repetition> {
    const LENGTH: u32 = 32 << 10;
    let mut random = Random::new();
    let numbers: Vec<u32> = (0..LENGTH).map(|_| random.next()).collect();
    let mut sorted = numbers.clone();
    let work = move || {
        sorted.copy_from_slice(&numbers);
        sort(black_box(&mut sorted));
        let [first, .., last] = sorted.as_slice() else { unreachable!("it is not empty") };
        Ok(u64::from(*first) << 32 | u64::from(sorted[sorted.len() / 2] ^ last))
    };
    Ok(Repetition { units: LENGTH, answer: 0x9f7_7ed7_0f16, work: Box::new(work) })
}

fn sort(numbers: &mut [u32]) {
    // SAFETY: these are as many elements of this size as the slice has, and `compare` takes two of them.
    unsafe {
        libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), size_of::<u32>(), Some(compare));
    }
}

/// # Safety
/// Both must point to a `u32`.
unsafe extern "C" fn compare(a: *const c_void, b: *const c_void) -> c_int {
    // SAFETY: the caller says so.
    let (a, b) = unsafe { (*a.cast::<u32>(), *b.cast::<u32>()) };
    match a.cmp(&b) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_calls_are_made_as_are_counted() {
        fn calls(n: u32) -> u32 {
            if n < 2 { 1 } else { 1 + calls(n - 1) + calls(n - 2) }
        }
        assert_eq!(calls(22), fib().unwrap().units);
    }

    #[test]
    fn numbers_are_sorted() {
        let mut numbers = [3, u32::MAX, 0, 2, 2];
        sort(&mut numbers);
        assert_eq!(numbers, [0, 2, 2, 3, u32::MAX]);
    }
}
