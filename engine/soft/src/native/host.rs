//! What the host's processor must have for the guest's instructions to be executed natively.

/// Checks for the instruction sets of x86-64-v2, which every processor model of the guest has at least.
///
/// # Errors
/// The names of the missing instruction sets, as /proc/cpuinfo knows them.
pub fn host_supports() -> Result<(), Vec<&'static str>> {
    let required = [
        ("fxsr", is_x86_feature_detected!("fxsr")),
        ("sse2", is_x86_feature_detected!("sse2")),
        ("pni", is_x86_feature_detected!("sse3")),
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("sse4_1", is_x86_feature_detected!("sse4.1")),
        ("sse4_2", is_x86_feature_detected!("sse4.2")),
        ("popcnt", is_x86_feature_detected!("popcnt")),
        ("cx16", is_x86_feature_detected!("cmpxchg16b")),
    ];
    let missing: Vec<_> = required.iter().filter(|(_, present)| !present).map(|&(name, _)| name).collect();
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}
