//! One guest: QEMU's command line, its monitor, its end.

use super::accel::Accel;
use crate::cmd;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Everything that QEMU must know to boot a node.
pub struct Machine<'a> {
    /// QEMU's program.
    pub program: &'a Path,
    /// The node's number, from 1.
    pub node: usize,
    /// How many nodes the cluster has.
    pub nodes: usize,
    /// Whether the guest starts the daemon by itself.
    pub daemon: bool,
    /// How it is run.
    pub accel: Accel,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// The kernel's file.
    pub kernel: &'a Path,
    /// The initramfs's file.
    pub initramfs: &'a Path,
    /// The node's own overlay, qcow2.
    pub disk: &'a Path,
    /// Where the console's text goes.
    pub console: &'a Path,
    /// The switch's socket for this node.
    pub port: &'a Path,
    /// The files of the running guest.
    pub files: &'a Files,
}

/// The monitor and the process id of a running guest.
pub struct Files {
    /// QEMU's monitor (QMP).
    pub monitor: PathBuf,
    /// The file that holds QEMU's process id.
    pub pid: PathBuf,
}

/// Accelerator and processor, as QEMU's options.
pub fn accel_options(accel: Accel) -> [&'static str; 4] {
    match accel {
        Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
        // "Enhanced REP MOVSB" means: copy byte by byte, which is the fastest for a processor, and
        // the slowest for its emulation.
        Accel::Tcg => ["-accel", TCG, "-cpu", "max,-erms"],
    }
}

/// Emulation, as QEMU's option: a thread for each virtual CPU.
pub const TCG: &str = "tcg,thread=multi";

/// Starts the guest; QEMU continues in the background by itself. Returns as soon as QEMU has all
/// its devices.
pub fn boot(machine: &Machine<'_>) -> Result<()> {
    let Machine { node, nodes, .. } = machine;
    let file = |path: &Path| path.display().to_string().replace(',', ",,");
    // Debian's kernel samples all memory accesses for DAMON's statistics, which costs an emulated
    // CPU a third of its time.
    let words = format!(
        "console=ttyS0 panic=-1 psi=1 mitigations=off nowatchdog tsc=reliable no_timer_check quiet loglevel=4 damon_stat.enabled=N \
         mosix.node={node} mosix.nodes={nodes} mosix.daemon={}",
        u8::from(machine.daemon)
    );
    let mut command = Command::new(machine.program);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-daemonize", "-no-reboot"])
        .args(accel_options(machine.accel))
        .args(["-smp", &machine.cpus.to_string(), "-m", &machine.memory_mib.to_string()])
        .arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initramfs)
        .args(["-append", &words])
        // The host's page cache is as safe as the test needs: a guest that is killed loses what it
        // had not written itself.
        .args(["-drive", &format!("if=none,id=root,format=qcow2,cache=unsafe,file={}", file(machine.disk))])
        .args(["-device", "virtio-blk-pci,drive=root"])
        // The harness's way in. The guest cannot reach anything through it.
        .args(["-netdev", "user,id=mgmt,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"])
        .args(["-device", &format!("virtio-net-pci,netdev=mgmt,romfile=,mac=52:54:00:78:00:{node:02x}")])
        .args(["-netdev", &format!("stream,id=lan,server=off,addr.type=unix,addr.path={}", file(machine.port))])
        .args(["-device", &format!("virtio-net-pci,netdev=lan,romfile=,mac=52:54:00:77:00:{node:02x}")])
        .args(["-chardev", &format!("file,id=console,append=on,path={}", file(machine.console))])
        .args(["-serial", "chardev:console"])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", file(&machine.files.monitor))])
        .arg("-pidfile")
        .arg(&machine.files.pid);
    cmd::output(&mut command).with_context(|| format!("cannot start n{node}"))?;
    Ok(())
}

impl Files {
    /// The guest's QEMU if it runs. A process id that meanwhile belongs to another program is not
    /// taken for it.
    pub fn running(&self) -> Option<i32> {
        let pid: i32 = std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok()?;
        belongs(pid, &self.pid).then_some(pid)
    }

    /// The port of 127.0.0.1 behind which the guest's sshd is.
    pub fn ssh_port(&self) -> Result<u16> {
        let table = self.monitor_command("human-monitor-command", r#","arguments":{"command-line":"info usernet"}"#)?;
        parse_usernet(&table).with_context(|| format!("QEMU tells no forwarded port: {table}"))
    }

    /// Cuts the power: the guest gets no chance to write anything more. What it had written stays.
    pub fn power_off(&self) -> Result<()> {
        let Some(pid) = self.running() else { return Ok(()) };
        // By the monitor, because QEMU itself must write the overlay's tables; if it does not
        // answer, by force.
        let patience = if self.monitor_command("quit", "").is_ok() { 5 } else { 1 };
        if !gone(pid, &self.pid, Duration::from_secs(patience)) {
            signal(pid, libc::SIGKILL);
            if !gone(pid, &self.pid, Duration::from_secs(5)) {
                bail!("QEMU (process {pid}) does not end");
            }
        }
        let _ = std::fs::remove_file(&self.pid);
        Ok(())
    }

    fn monitor_command(&self, name: &str, arguments: &str) -> Result<String> {
        let stream = UnixStream::connect(&self.monitor).context("the guest is not running")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut lines = BufReader::new(&stream).lines();
        for order in ["{\"execute\":\"qmp_capabilities\"}".to_owned(), format!("{{\"execute\":\"{name}\"{arguments}}}")]
        {
            (&stream).write_all(order.as_bytes())?;
            // Before and between the answers come a greeting and events.
            let answer = lines.by_ref().find(|line| match line {
                Ok(line) => line.starts_with("{\"return\"") || line.starts_with("{\"error\""),
                Err(_) => true,
            });
            let answer = answer.context("QEMU's monitor closed")?.context("QEMU's monitor does not answer")?;
            if answer.starts_with("{\"error\"") {
                bail!("QEMU refuses {name}: {answer}");
            }
            if order.contains(name) {
                return Ok(answer);
            }
        }
        bail!("QEMU's monitor does not answer");
    }
}

/// Whether process `pid` runs and has `mark` in its command line.
pub fn belongs(pid: i32, mark: &Path) -> bool {
    let read = || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = read();
    if words.is_empty() {
        // It has ended, or is just in the middle of an execve.
        std::thread::sleep(Duration::from_millis(5));
        words = read();
    }
    let mark = mark.as_os_str().as_encoded_bytes();
    words.windows(mark.len()).any(|window| window == mark)
}

/// Waits until process `pid`, known by `mark`, has ended.
pub fn gone(pid: i32, mark: &Path, timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    while belongs(pid, mark) {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Sends a signal to a process that [`belongs`] to us.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes two integers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

/// `  TCP[HOST_FORWARD]  12  127.0.0.1 40123  10.0.2.15  22  0  0`, with the line ends written as
/// in JSON.
fn parse_usernet(table: &str) -> Option<u16> {
    let line = table.split("\\r\\n").find(|line| line.contains("HOST_FORWARD"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_found_in_the_monitors_table() {
        let table = "{\"return\": \"Hub -1 (mgmt):\\r\\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ \
            SendQ\\r\\n  TCP[HOST_FORWARD]  11       127.0.0.1 35829       10.0.2.15    22     0     0\\r\\n\"}";
        assert_eq!(parse_usernet(table), Some(35829));
        assert_eq!(parse_usernet("{\"return\": \"\"}"), None);
    }

    #[test]
    fn a_process_is_known_by_its_command_line_only() {
        let mut child = Command::new("sleep").arg("100.25").spawn().unwrap();
        let pid = child.id() as i32;
        // `spawn` returns once the exec cannot fail any more; the kernel fills in the arguments a
        // moment later.
        let until = Instant::now() + Duration::from_secs(5);
        while !belongs(pid, Path::new("100.25")) {
            assert!(Instant::now() < until, "the process is never known");
            std::thread::yield_now();
        }
        assert!(!belongs(pid, Path::new("/run/of/another")));
        signal(pid, libc::SIGKILL);
        child.wait().unwrap();
        assert!(gone(pid, Path::new("100.25"), Duration::from_secs(5)));
    }
}
