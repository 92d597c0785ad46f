//! Build script: each concern in its own function.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    link_statically();
    compile_deputy()?;
    compile_protos()?;
    compile_scheduler()?;
    compile_telemetry()
}

/// In a static position-independent executable the linker that rustc brings would turn glibc's undefined weak symbols into
/// relocations against the load address, and the C runtime would call them: they must stay null.
fn link_statically() {
    println!("cargo:rustc-link-arg=-Wl,-z,nodynamic-undefined-weak");
}

/// Compiles the deputy, a freestanding program of a few kB that `home::deputy` embeds: nothing of Rust's or C's run time is in it.
fn compile_deputy() -> Result<()> {
    let source = Path::new("src/home/deputy");
    println!("cargo:rerun-if-changed={}", source.display());
    println!("cargo:rerun-if-changed=src/protocol/deputy.rs");
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let rustc = std::env::var_os("RUSTC").context("cargo sets RUSTC")?;
    let linker_options = "-Wl,-z,max-page-size=4096,-z,norelro,--no-eh-frame-hdr,--build-id=none";
    let code = ["panic=abort", "opt-level=s", "relocation-model=static", "target-feature=+crt-static", "strip=symbols"];
    let link = ["-nostartfiles", "-nostdlib", "-static", "-no-pie", linker_options];
    let status = std::process::Command::new(rustc)
        .args(["--edition=2024", "--crate-name=deputy", "--crate-type=bin", "--target=x86_64-unknown-linux-gnu"])
        .args(code.iter().flat_map(|option| ["-C", option]))
        .args(link.iter().map(|option| format!("-Clink-arg={option}")))
        .args([Path::new("-o"), &out_dir.join("deputy"), &source.join("main.rs")])
        .status()
        .context("rustc could not be started")?;
    anyhow::ensure!(status.success(), "rustc could not build the deputy: {status}");
    Ok(())
}

/// Compiles every file below `proto/` to Rust, without protoc, and writes `descriptors.bin` for reflection: the descriptors of all
/// our files and of those that they import, with their comments. CRIU's protocol is no service of ours: it is not in there.
fn compile_protos() -> Result<()> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    find_protos(root, &mut files)?;
    files.sort();
    let (criu, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.starts_with(root.join("criu")));
    tonic_prost_build::configure()
        .compile_fds(protox::compile(&criu, [root])?)
        .context("no Rust could be generated for CRIU")?;
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    std::fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .compile_fds(compiler.file_descriptor_set())
        .context("no Rust could be generated from proto/")
}

fn find_protos(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in dir.read_dir().with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find_protos(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// Compiles the sched_ext scheduler to BPF and generates its libbpf-rs skeleton (`scheduler_skel.rs`) and the Rust twins of
/// `bpf/intf.h` (`scheduler_intf.rs`). Rebuilt when any file in `bpf/` changes.
fn compile_scheduler() -> Result<()> {
    scx_cargo::BpfBuilder::new()
        .and_then(|mut builder| {
            builder.enable_intf("bpf/intf.h", "scheduler_intf.rs").enable_skel("bpf/main.bpf.c", "scheduler").build()
        })
        .context("bpf/main.bpf.c did not compile (clang 18 or newer is needed; BPF_CLANG names it)")
}

/// Compiles the telemetry programs to BPF objects, which are embedded in the binary and loaded by aya. They need no vmlinux.h:
/// they name the few kernel fields that they read themselves.
fn compile_telemetry() -> Result<()> {
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let headers = std::env::var_os("DEP_BPF_INCLUDE").context("libbpf-sys names its headers")?;
    let clang = std::env::var_os("BPF_CLANG").unwrap_or_else(|| "clang".into());
    println!("cargo:rerun-if-env-changed=BPF_CLANG");
    println!("cargo:rerun-if-changed=bpf/telemetry.h");
    for name in ["telemetry", "landlock"] {
        let source = format!("bpf/{name}.bpf.c");
        println!("cargo:rerun-if-changed={source}");
        let status = std::process::Command::new(&clang)
            .args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror", "-c", &source, "-I"])
            .arg(&headers)
            .arg("-o")
            .arg(out_dir.join(format!("{name}.bpf.o")))
            .status()
            .with_context(|| format!("{} could not be started", clang.display()))?;
        anyhow::ensure!(status.success(), "{source} did not compile");
    }
    Ok(())
}
