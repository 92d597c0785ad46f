//! Build script: each concern in its own function.

fn main() {
    link_statically();
}

/// In a static position-independent executable the linker that rustc brings would turn glibc's undefined weak symbols into
/// relocations against the load address, and the C runtime would call them: they must stay null.
fn link_statically() {
    println!("cargo:rustc-link-arg=-Wl,-z,nodynamic-undefined-weak");
}
