//! Bytes one after the other: a table-driven CRC-32, SHA-256, and deflate.

use std::hint::black_box;
use std::io;

use miniz_oxide::deflate;
use sha2::{Digest, Sha256};

use crate::data;
use crate::measure::Repetition;

/// CRC-32 as in ISO 3309 and zlib, one table look-up per byte: each depends on the one before.
pub(crate) fn crc32() -> io::Result<Repetition> {
    const LENGTH: u32 = 64 << 10;
    let bytes = data::noise(LENGTH as usize);
    let table = crc_table();
    let work = move || Ok(crc(&table, black_box(&bytes)).into());
    Ok(Repetition { units: LENGTH, answer: 0xd8cd_1a93, work: Box::new(work) })
}

fn crc(table: &[u32; 256], bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| table[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    for (index, entry) in (0..).zip(&mut table) {
        *entry = (0..8).fold(index, |crc: u32, _| (crc >> 1) ^ if crc & 1 == 0 { 0 } else { 0xedb8_8320 });
    }
    table
}

/// SHA-256, in integer registers: additions, rotations, and little else.
pub(crate) fn sha256() -> io::Result<Repetition> {
    const LENGTH: u32 = 16 << 10;
    let bytes = data::noise(LENGTH as usize);
    let work = move || {
        let digest = Sha256::digest(black_box(&bytes));
        Ok(digest[..8].iter().fold(0, |answer, byte| answer << 8 | u64::from(*byte)))
    };
    Ok(Repetition { units: LENGTH, answer: 0xca8c_dfd6_58d2_d7e7, work: Box::new(work) })
}

/// Deflate (RFC 1951) at its usual level: hash chains, comparisons, and branches that nobody can predict.
pub(crate) fn deflate() -> io::Result<Repetition> {
    const LENGTH: u32 = 64 << 10;
    const LEVEL: u8 = 6;
    let text = data::text(LENGTH as usize);
    let table = crc_table();
    let work = move || {
        let packed = deflate::compress_to_vec(black_box(&text), LEVEL);
        Ok(u64::from(crc(&table, &packed)) << 32 | packed.len() as u64)
    };
    Ok(Repetition { units: LENGTH, answer: 0xe4d7_8e67_0000_5843, work: Box::new(work) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_one_that_everybody_computes() {
        // The check value of CRC-32/ISO-HDLC in Williams' catalogue.
        assert_eq!(crc(&crc_table(), b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_text_compresses_as_text_does() {
        let packed = deflate::compress_to_vec(&data::text(100_000), 6).len();
        assert!((20_000..50_000).contains(&packed), "{packed}");
    }
}
