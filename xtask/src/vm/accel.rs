//! KVM or emulation: asked once of this host by booting a guest, because a /dev/kvm that is there
//! need not work.

use super::image::{Fnv, Image, Kernel, cache_dir};
use super::qemu;
use crate::progress::Progress;
use anyhow::{Result, bail};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a guest may take to answer from its initramfs under KVM (it takes about a second).
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// The accelerator to use, or the one that `SCX_MOSIX_VM_ACCEL` (kvm, tcg) names.
pub fn choose(progress: &Progress, image: &Image) -> Result<Accel> {
    match std::env::var("SCX_MOSIX_VM_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) => bail!("SCX_MOSIX_VM_ACCEL is {other:?}: say kvm or tcg, or leave it unset"),
        Err(_) => {}
    }
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let known = cache_dir().join(format!("accel-{:016x}", host(image)));
    match fs::read_to_string(&known).as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        _ => {}
    }
    let step = progress.step("asking whether a guest boots with KVM here");
    let answer = if boots(image)? { Accel::Kvm } else { Accel::Tcg };
    fs::write(known, if answer == Accel::Kvm { "kvm" } else { "tcg" })?;
    step.done();
    if answer == Accel::Tcg {
        progress.say("KVM does not boot a guest here: guests are emulated, which is about 16 times slower");
    }
    Ok(answer)
}

/// A name for this host's kernel and processor and the image's QEMU: another one must be asked
/// anew.
fn host(image: &Image) -> u64 {
    let mut hash = Fnv::default();
    hash.add(&fs::read("/proc/version").unwrap_or_default());
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    hash.add(processor.lines().find(|line| line.starts_with("model name")).unwrap_or_default().as_bytes());
    hash.add(image.dir.as_os_str().as_encoded_bytes());
    hash.0
}

fn boots(image: &Image) -> Result<bool> {
    let console = tempfile::NamedTempFile::new()?;
    let mut guest = Command::new(image.qemu())
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256"])
        .args(qemu::accel_options(Accel::Kvm))
        .arg("-kernel")
        .arg(image.kernel(Kernel::Scx))
        .arg("-initrd")
        .arg(image.initramfs(Kernel::Scx))
        .args(["-append", "console=ttyS0 panic=-1 quiet mosix.probe"])
        .args(["-serial", &format!("file:{}", console.path().display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let until = Instant::now() + PROBE_TIMEOUT;
    let mut answered = false;
    while !answered && Instant::now() < until && guest.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(50));
        answered = fs::read_to_string(console.path()).is_ok_and(|text| text.contains("probe answered"));
    }
    answered |= fs::read_to_string(console.path()).is_ok_and(|text| text.contains("probe answered"));
    let _ = guest.kill();
    guest.wait()?;
    Ok(answered)
}
