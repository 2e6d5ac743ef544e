//! Guest memory as the host's processor accesses it: one host instruction per guest access.
//!
//! Guests race on their memory by right, and rely on what an x86-64 processor promises about it (APM volume 2, section
//! 7.2: aligned accesses are atomic, stores are not reordered). Rust's references and plain pointer reads allow the
//! compiler to tear, repeat or invent accesses; inline assembly does not, and it may be unaligned. So this file is the
//! only one that accesses guest memory for them; what devices and clocks write there goes through `vm-memory`.

use std::arch::asm;
use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

use tern_x86::cpu::Word;

/// Loads a `W` from host address `at`.
///
/// # Safety
/// `W::BYTES` bytes at `at` are mapped and readable, and belong to guest memory.
#[inline(always)]
pub unsafe fn load<W: Word>(at: u64) -> W {
    let value: u64;
    // SAFETY: the caller vouches for the address; the instructions only read it.
    unsafe {
        match W::BYTES {
            1 => {
                asm!("movzx {v:e}, byte ptr [{a}]", a = in(reg) at, v = out(reg) value, options(nostack, preserves_flags, readonly))
            }
            2 => {
                asm!("movzx {v:e}, word ptr [{a}]", a = in(reg) at, v = out(reg) value, options(nostack, preserves_flags, readonly))
            }
            4 => {
                asm!("mov {v:e}, dword ptr [{a}]", a = in(reg) at, v = out(reg) value, options(nostack, preserves_flags, readonly))
            }
            _ => {
                asm!("mov {v}, qword ptr [{a}]", a = in(reg) at, v = out(reg) value, options(nostack, preserves_flags, readonly))
            }
        }
    }
    W::truncate(value)
}

/// Stores a `W` to host address `at`.
///
/// # Safety
/// `W::BYTES` bytes at `at` are mapped and writable, and belong to guest memory.
#[inline(always)]
pub unsafe fn store<W: Word>(at: u64, value: W) {
    let v = value.zero_extend();
    // SAFETY: the caller vouches for the address, and nothing of the host's lies there.
    unsafe {
        match W::BYTES {
            1 => {
                asm!("mov byte ptr [{a}], {v}", a = in(reg) at, v = in(reg_byte) v as u8, options(nostack, preserves_flags))
            }
            2 => {
                asm!("mov word ptr [{a}], {v:x}", a = in(reg) at, v = in(reg) v, options(nostack, preserves_flags))
            }
            4 => {
                asm!("mov dword ptr [{a}], {v:e}", a = in(reg) at, v = in(reg) v, options(nostack, preserves_flags))
            }
            _ => {
                asm!("mov qword ptr [{a}], {v}", a = in(reg) at, v = in(reg) v, options(nostack, preserves_flags))
            }
        }
    }
}

/// Atomically replaces the `W` at `at` by `new` if it is `old`. Returns what was there.
///
/// # Safety
/// As [`store`].
#[inline(always)]
pub unsafe fn compare_exchange<W: Word>(at: u64, old: W, new: W) -> W {
    let mut a = old.zero_extend();
    let n = new.zero_extend();
    // SAFETY: the caller vouches for the address. LOCK works on unaligned operands too.
    unsafe {
        match W::BYTES {
            1 => {
                asm!("lock cmpxchg byte ptr [{p}], {n}", p = in(reg) at, n = in(reg_byte) n as u8, inout("rax") a, options(nostack))
            }
            2 => {
                asm!("lock cmpxchg word ptr [{p}], {n:x}", p = in(reg) at, n = in(reg) n, inout("rax") a, options(nostack))
            }
            4 => {
                asm!("lock cmpxchg dword ptr [{p}], {n:e}", p = in(reg) at, n = in(reg) n, inout("rax") a, options(nostack))
            }
            _ => {
                asm!("lock cmpxchg qword ptr [{p}], {n}", p = in(reg) at, n = in(reg) n, inout("rax") a, options(nostack))
            }
        }
    }
    W::truncate(a)
}

/// Atomically replaces the 16 bytes at `at`, a multiple of 16, by `new` if they are `old`. Returns what was there.
///
/// # Safety
/// As [`store`], and the host has CMPXCHG16B.
#[inline]
pub unsafe fn compare_exchange_16_bytes(at: u64, old: u128, new: u128) -> u128 {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: the caller vouches for the address. RBX is LLVM's own and therefore swapped in and out; all other operands
    // are in named registers, so that none of them is RBX.
    unsafe {
        asm!(
            "xchg rbx, rsi",
            "lock cmpxchg16b xmmword ptr [rdi]",
            "mov rbx, rsi",
            in("rdi") at,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack)
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

/// Loads 16 bytes, in one access on every processor that has AVX.
///
/// # Safety
/// As [`load`]; `at` is a multiple of 16.
#[inline]
pub unsafe fn load_16_bytes(at: u64) -> u128 {
    let value: __m128i;
    // SAFETY: the caller vouches for the address; the instruction only reads it.
    unsafe {
        asm!("movdqa {v}, xmmword ptr [{a}]", a = in(reg) at, v = out(xmm_reg) value, options(nostack, preserves_flags, readonly));
    }
    let mut bytes = [0; 16];
    // SAFETY: 16 bytes of ours.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) };
    u128::from_le_bytes(bytes)
}

/// Stores 16 bytes likewise.
///
/// # Safety
/// As [`store`]; `at` is a multiple of 16.
#[inline]
pub unsafe fn store_16_bytes(at: u64, value: u128) {
    let bytes = value.to_le_bytes();
    // SAFETY: the caller vouches for the address, and nothing of the host's lies there; the bytes are ours.
    unsafe {
        let value = _mm_loadu_si128(bytes.as_ptr().cast());
        asm!("movdqa xmmword ptr [{a}], {v}", a = in(reg) at, v = in(xmm_reg) value, options(nostack, preserves_flags));
    }
}

/// Copies `count` ascending elements; each that is aligned is loaded and stored at once. An overlap has the meaning that it has for
/// REP MOVS of such elements.
///
/// # Safety
/// The source is as for [`load`], the destination as for [`store`], for all of them.
#[inline]
pub unsafe fn copy<W: Word>(from: u64, to: u64, count: u64) {
    let bytes = count * u64::from(W::BYTES);
    let is_apart = to.wrapping_sub(from) >= bytes && from.wrapping_sub(to) >= bytes;
    if is_apart && is_x86_feature_detected!("avx") {
        // SAFETY: the caller vouches for both ranges, and the host has AVX.
        return unsafe { copy_by_avx(from, to, bytes) };
    }
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the calling convention.
    unsafe {
        match W::BYTES {
            1 => {
                asm!("rep movsb", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
            2 => {
                asm!("rep movsw", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
            4 => {
                asm!("rep movsd", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
            _ => {
                asm!("rep movsq", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
        }
    }
}

/// Copies `bytes` bytes between places that do not overlap. Each byte is loaded once and stored once, and elements that divide
/// `bytes` and are aligned are loaded and stored at once.
///
/// # Safety
/// As [`copy`]; the host has AVX.
unsafe fn copy_by_avx(from: u64, to: u64, bytes: u64) {
    // SAFETY: the caller vouches for both ranges. The blocks are as many as fit, and the rest is what is left, by its bits.
    unsafe {
        asm!(
            "sub {n}, 128",
            "jb 3f",
            "2:",
            "vmovdqu ymm0, ymmword ptr [{f}]",
            "vmovdqu ymm1, ymmword ptr [{f} + 32]",
            "vmovdqu ymm2, ymmword ptr [{f} + 64]",
            "vmovdqu ymm3, ymmword ptr [{f} + 96]",
            "vmovdqu ymmword ptr [{t}], ymm0",
            "vmovdqu ymmword ptr [{t} + 32], ymm1",
            "vmovdqu ymmword ptr [{t} + 64], ymm2",
            "vmovdqu ymmword ptr [{t} + 96], ymm3",
            "sub {f}, -128",
            "sub {t}, -128",
            "sub {n}, 128",
            "jae 2b",
            "3:",
            "test {n:l}, 64",
            "jz 4f",
            "vmovdqu ymm0, ymmword ptr [{f}]",
            "vmovdqu ymm1, ymmword ptr [{f} + 32]",
            "vmovdqu ymmword ptr [{t}], ymm0",
            "vmovdqu ymmword ptr [{t} + 32], ymm1",
            "add {f}, 64",
            "add {t}, 64",
            "4:",
            "test {n:l}, 32",
            "jz 5f",
            "vmovdqu ymm0, ymmword ptr [{f}]",
            "vmovdqu ymmword ptr [{t}], ymm0",
            "add {f}, 32",
            "add {t}, 32",
            "5:",
            "test {n:l}, 16",
            "jz 6f",
            "vmovdqu xmm0, xmmword ptr [{f}]",
            "vmovdqu xmmword ptr [{t}], xmm0",
            "add {f}, 16",
            "add {t}, 16",
            "6:",
            "test {n:l}, 8",
            "jz 7f",
            "mov {v}, qword ptr [{f}]",
            "mov qword ptr [{t}], {v}",
            "add {f}, 8",
            "add {t}, 8",
            "7:",
            "test {n:l}, 4",
            "jz 8f",
            "mov {v:e}, dword ptr [{f}]",
            "mov dword ptr [{t}], {v:e}",
            "add {f}, 4",
            "add {t}, 4",
            "8:",
            "test {n:l}, 2",
            "jz 9f",
            "mov {v:x}, word ptr [{f}]",
            "mov word ptr [{t}], {v:x}",
            "add {f}, 2",
            "add {t}, 2",
            "9:",
            "test {n:l}, 1",
            "jz 12f",
            "mov {v:l}, byte ptr [{f}]",
            "mov byte ptr [{t}], {v:l}",
            "12:",
            "vzeroupper",
            f = inout(reg) from => _,
            t = inout(reg) to => _,
            n = inout(reg) bytes => _,
            v = out(reg) _,
            out("xmm0") _,
            out("xmm1") _,
            out("xmm2") _,
            out("xmm3") _,
            options(nostack),
        );
    }
}

/// Fills `count` elements from `at` upwards.
///
/// # Safety
/// As [`store`], for all of them.
#[inline]
pub unsafe fn fill<W: Word>(at: u64, value: W, count: u64) {
    let v = value.zero_extend();
    // SAFETY: the caller vouches for the range; the direction flag is clear by the calling convention.
    unsafe {
        match W::BYTES {
            1 => {
                asm!("rep stosb", inout("rdi") at => _, inout("rcx") count => _, in("rax") v, options(nostack, preserves_flags))
            }
            2 => {
                asm!("rep stosw", inout("rdi") at => _, inout("rcx") count => _, in("rax") v, options(nostack, preserves_flags))
            }
            4 => {
                asm!("rep stosd", inout("rdi") at => _, inout("rcx") count => _, in("rax") v, options(nostack, preserves_flags))
            }
            _ => {
                asm!("rep stosq", inout("rdi") at => _, inout("rcx") count => _, in("rax") v, options(nostack, preserves_flags))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_what_a_loop_over_bytes_makes_of_them() {
        let original: Vec<u8> = (0..2000).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in (0..300).chain([511, 512, 700]) {
            for (from, to) in [(3, 1000), (1000, 3), (500, 501), (501, 500), (500, 500 + length), (500, 600)]
            {
                let mut expected = original.clone();
                for n in 0..length {
                    expected[to + n] = expected[from + n];
                }
                // Bytes repeat where wider elements do not if the destination starts inside of the first one.
                let agrees = |size| length % size == 0 && to.wrapping_sub(from).wrapping_sub(1) >= size - 1;
                for size in [1, 2, 4, 8].into_iter().filter(|&size| agrees(size)) {
                    let mut bytes = original.clone();
                    let start = bytes.as_mut_ptr() as u64;
                    let (from_there, to_there) = (start + from as u64, start + to as u64);
                    let count = (length / size) as u64;
                    // SAFETY: both ranges lie in `bytes`, which nothing else uses meanwhile.
                    unsafe {
                        match size {
                            1 => copy::<u8>(from_there, to_there, count),
                            2 => copy::<u16>(from_there, to_there, count),
                            4 => copy::<u32>(from_there, to_there, count),
                            _ => copy::<u64>(from_there, to_there, count),
                        }
                    }
                    assert!(bytes == expected, "{count} elements of {size} bytes from {from} to {to}");
                }
            }
        }
    }
}
