//! Every opcode of every map, whoever's processor has it, executed by a guest: none crashes the engine, and translated code and the
//! interpreter agree.

#[path = "../../../fuzz/src/guest.rs"]
#[expect(dead_code, reason = "the fuzz targets do more with it")]
mod guest;

/// What [`guest::execute`] is to do, in lockstep, on all that the host's processor has: 32-bit code of a program.
const CODE32: u8 = 0x1e;
/// 64-bit code of a program.
const CODE64: u8 = 0x1f;
/// 64-bit code of a kernel.
const KERNEL: u8 = 0x1b;

/// Executes an opcode with operands of every shape: each register or digit beside a register, and beside memory.
fn execute(mode: u8, opcode: &[u8]) {
    for digit in 0..8 {
        // RCX; what is 0x70 below RAX.
        for operand in [0xc1, 0x40] {
            let mut input = vec![mode];
            input.extend(opcode);
            input.push(operand | digit << 3);
            // A displacement or an immediate, as many bytes as there may be; then UD2.
            input.extend([0x90; 8]);
            input.extend([0x0f, 0x0b]);
            guest::execute(&input);
        }
    }
}

/// Executes all opcodes behind these bytes.
fn execute_all(mode: u8, before: &[u8]) {
    for opcode in 0..=0xff {
        execute(mode, &[before, &[opcode]].concat());
    }
}

fn execute_legacy(mode: u8, prefixes: &[&[u8]]) {
    let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for prefix in prefixes {
        for map in maps {
            execute_all(mode, &[prefix, map].concat());
        }
    }
}

/// Opcodes of these maps behind a prefix of three bytes as VEX and XOP have it, with each operand size, vector length and implied prefix.
fn execute_vex(mode: u8, prefix: u8, maps: std::ops::RangeInclusive<u8>) {
    for map in maps {
        for last in 0..=0xff_u8 {
            // The register that VVVV names is either none, or RBX's.
            if matches!(last >> 3 & 0xf, 0xf | 0xc) {
                execute_all(mode, &[prefix, 0xe0 | map, last]);
            }
        }
    }
}

const PREFIXES: [&[u8]; 6] = [&[], &[0x66], &[0xf3], &[0xf2], &[0xf0], &[0x67]];
/// With REX.W.
const WIDE_PREFIXES: [&[u8]; 5] = [&[0x48], &[0x66, 0x48], &[0xf3, 0x48], &[0xf2, 0x48], &[0xf0, 0x48]];

#[test]
fn opcodes_of_32_bit_code_leave_the_engine_running() {
    execute_legacy(CODE32, &PREFIXES);
}

#[test]
fn opcodes_of_64_bit_code_leave_the_engine_running() {
    execute_legacy(CODE64, &PREFIXES);
    execute_legacy(CODE64, &WIDE_PREFIXES);
}

#[test]
fn opcodes_of_a_kernel_leave_the_engine_running() {
    execute_legacy(KERNEL, &PREFIXES);
    execute_legacy(KERNEL, &WIDE_PREFIXES);
}

#[test]
fn opcodes_encoded_by_vex_leave_the_engine_running() {
    execute_vex(CODE64, 0xc4, 0..=3);
}

#[test]
fn opcodes_encoded_by_xop_leave_the_engine_running() {
    execute_vex(CODE64, 0x8f, 8..=0xa);
}

#[test]
fn opcodes_encoded_by_evex_leave_the_engine_running() {
    for map in 0..=7 {
        for (w, length) in [(0, 0), (0, 0x20), (0, 0x40), (0x80, 0), (0x80, 0x40)] {
            for implied in 0..4 {
                execute_all(CODE64, &[0x62, 0xf0 | map, 0x7c | w | implied, 0x08 | length]);
            }
        }
    }
}
