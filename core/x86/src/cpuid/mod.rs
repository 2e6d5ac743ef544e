//! Named processor models and what CPUID says for them.

/// A processor model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel {
    /// The name users type.
    pub name: &'static str,
}

impl Default for CpuModel {
    fn default() -> Self {
        Self { name: "tern-v2" }
    }
}
