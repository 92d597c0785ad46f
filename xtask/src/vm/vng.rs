//! `vm vng`: one command on this computer's own root file system, under the guests' kernel with
//! sched_ext, by virtme-ng.
//!
//! The root is read-only in there; /tmp, /run and /dev/shm are the guest's own. The working
//! directory is ours.

use super::accel::{self, Accel};
use super::image::{self, Image, Kernel, Locked, cache_dir};
use super::qemu;
use crate::cmd;
use crate::product;
use crate::progress::Progress;
use crate::setup;
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version of virtme-ng that this was tried with.
const VIRTME_NG: &str = "1.42";

/// What `vm vng` is asked for.
#[derive(Args)]
pub struct Vng {
    /// Virtual CPUs
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mem: u32,
    /// The command and its arguments, passed exactly
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command as root and returns its exit status.
pub fn run(vng: &Vng) -> Result<u8> {
    let progress = Progress::new();
    setup::ensure(&progress)?;
    let image = image::ensure(&progress)?;
    let accel = accel::choose(&progress, &image)?;
    let program = install(&progress)?;
    let mut child = command(vng, &image, accel, &program)?;
    // QEMU opens its stdout and stderr anew by their names in /proc: it would overwrite a file from
    // its start, and cannot open a socket. Pipes it can, so we copy.
    let (mut out, mut errors) = (child.stdout.take().context("no pipe")?, child.stderr.take().context("no pipe")?);
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        std::io::copy(&mut out, &mut std::io::stdout()).map(drop)
    })?;
    Ok(cmd::shell_status(child.wait()?).try_into().unwrap_or(1))
}

fn command(vng: &Vng, image: &Image, accel: Accel, program: &Path) -> Result<std::process::Child> {
    // The image's own file server and emulator in front: not every distribution has them.
    let path = std::env::join_paths(
        ["virtiofsd", "qemu"]
            .map(|dir| image.dir.join(dir))
            .into_iter()
            .chain(program.parent().map(Path::to_path_buf))
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()))
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from)),
    )?;
    let script = format!("{}; {}", own_tmp(&product::root()), cmd::quote_all(&vng.command));
    let mut command = Command::new(program);
    command
        .arg("--run")
        .arg(image.kernel(Kernel::Scx))
        .args(["--user", "root", "--cpus", &vng.cpus.to_string(), "--memory", &format!("{}M", vng.mem)])
        .args(
            (accel == Accel::Tcg)
                .then(|| ["--disable-kvm".into(), format!("--qemu-opts=-accel {}", qemu::TCG)])
                .into_iter()
                .flatten(),
        )
        .args(["--", &script])
        .env("PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().context("cannot start virtme-ng")
}

/// The shell text that gives the guest a /tmp of its own, in which a work tree that lies in this
/// host's /tmp is still there.
fn own_tmp(tree: &Path) -> String {
    let mount = "mount -t tmpfs tmpfs /tmp";
    if !tree.starts_with("/tmp") {
        return mount.to_owned();
    }
    let tree = cmd::quote(&tree.display().to_string());
    format!(
        "mkdir -p /run/tree; mount --bind {tree} /run/tree; {mount}; mkdir -p {tree}; mount --bind /run/tree {tree}"
    )
}

/// Puts virtme-ng into the cache, once, and returns its program.
fn install(progress: &Progress) -> Result<PathBuf> {
    let place = cache_dir().join(format!("virtme-ng-{VIRTME_NG}"));
    let program = place.join("bin/vng");
    let complete = place.join("complete");
    if complete.exists() {
        return Ok(program);
    }
    let _locked = Locked::wait("virtme-ng")?;
    if complete.exists() {
        return Ok(program);
    }
    let step = progress.step("installing virtme-ng (once)");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let python = Path::new("/usr/bin/python3");
    let python = if python.exists() { python } else { Path::new("python3") };
    cmd::output(Command::new(python).args(["-m", "venv"]).arg(&place))?;
    let mut pip = Command::new(place.join("bin/pip"));
    cmd::output(pip.args(["install", "--quiet", &format!("virtme-ng=={VIRTME_NG}")]))?;
    fs::write(complete, "")?;
    step.done();
    Ok(program)
}
