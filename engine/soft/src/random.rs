//! Random bits for RDRAND and RDSEED, from the host's generator.

/// A little stock of random bits, so that not every instruction is a system call.
#[derive(Debug)]
pub struct RandomSource {
    stock: [u64; 32],
    left: usize,
}

impl RandomSource {
    /// An empty stock.
    pub const fn new() -> Self {
        Self { stock: [0; 32], left: 0 }
    }

    /// 64 bits that were never given out before.
    pub fn next(&mut self) -> u64 {
        if self.left == 0 {
            self.refill();
        }
        self.left -= 1;
        std::mem::take(&mut self.stock[self.left])
    }

    fn refill(&mut self) {
        let bytes = std::mem::size_of_val(&self.stock);
        // SAFETY: the stock is `bytes` long and may hold any bits. Up to 256 bytes are never cut short by a signal
        // (getrandom(2)), and the call fails only on kernels without it.
        let got = unsafe { libc::getrandom(self.stock.as_mut_ptr().cast(), bytes, 0) };
        assert_eq!(usize::try_from(got), Ok(bytes), "the host has no getrandom");
        self.left = self.stock.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_given_out_twice() {
        let mut source = RandomSource::new();
        let mut seen: Vec<u64> = (0..100).map(|_| source.next()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
    }
}
