//! Linear to physical addresses by walking page tables.
