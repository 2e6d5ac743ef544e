//! What the rows work on: the same in every run.

/// Numbers that look random: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The upper half is the better one.
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number below `bound`, which is not 0; small ones are not quite as likely as others, which matters to no row.
    pub fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }
}

/// Bytes without any order in them.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut random = Random::new();
    (0..length).map(|_| random.next().to_le_bytes()[0]).collect()
}

/// Bytes that compress about as well as text does: words of a small vocabulary, the first of it the most frequent.
pub(crate) fn text(length: usize) -> Vec<u8> {
    let mut random = Random::new();
    let vocabulary: Vec<Vec<u8>> = (0..1000)
        .map(|_| {
            let letters = 2 + random.below(9);
            (0..letters).map(|_| b"etaoinshrdlucmfw"[random.below(16)]).collect()
        })
        .collect();
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        let first = random.below(vocabulary.len()) + 1;
        text.extend_from_slice(&vocabulary[random.below(first)]);
        text.push(if random.below(12) == 0 { b'\n' } else { b' ' });
    }
    text.truncate(length);
    text
}
