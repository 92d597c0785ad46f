//! How fast a CPU of this node is, measured, not looked up: the clock rate says little about what a
//! CPU or a hypervisor delivers.
//!
//! A chain of dependent integer steps (load, multiply, rotate, add, store into a table of 4 KiB)
//! runs 24 times for 1.25 ms, and the upper quartile counts: time is the thread's CPU time, so
//! other programs on the machine do not make it look slow, but a hypervisor that takes the CPU away
//! does, in those runs in which it happens. So there is a pause between runs: a thread that has
//! slept gets a whole slice of time. All nodes run the same code, so their ratios are right
//! whatever the compiler made of it.

use std::{hint::black_box, thread::sleep, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Steps per millisecond of a CPU of speed 1 (1000 thousandths): about what a 3 GHz x86 core of
/// 2020 does.
pub const STANDARD_SPEED: u64 = 250_000;

const RUNS: usize = 24;
/// The run that counts, when they are ordered by speed.
const UPPER_QUARTILE: usize = 18;
/// CPU time of one run: long against the clock's cost, short against a hypervisor's time slices.
const RUN_NS: u64 = 1_250_000;
/// Pause between two runs.
const PAUSE: Duration = Duration::from_millis(8);
/// Steps between two looks at the clock: about 16 µs, and 0.3 ms under software emulation.
const BATCH: u64 = 4000;

/// Measures this CPU, in thousandths of [`STANDARD_SPEED`]; never 0. Takes about 30 ms of CPU time,
/// and a quarter of a second.
pub fn measure_speed_permille() -> u32 {
    let mut runs = [0; RUNS];
    for run in &mut runs {
        sleep(PAUSE);
        *run = one_run();
    }
    runs.sort_unstable();
    u32::try_from(runs[UPPER_QUARTILE]).unwrap_or(u32::MAX).max(1)
}

/// Speed of one run in thousandths.
fn one_run() -> u64 {
    let mut table = [0x9e37_79b9_7f4a_7c15_u64; 512];
    let mut state = 1;
    let mut steps = 0;
    let start_ns = cpu_time_ns();
    loop {
        state = black_box(chain(&mut table, state));
        steps += BATCH;
        let took_ns = cpu_time_ns().saturating_sub(start_ns);
        if took_ns >= RUN_NS {
            // steps/ms · 1000 / standard
            return steps.saturating_mul(1_000_000_000) / took_ns / STANDARD_SPEED;
        }
    }
}

fn chain(table: &mut [u64; 512], mut state: u64) -> u64 {
    for step in 0..BATCH {
        let slot = (state >> 55) as usize & 511;
        state = (state ^ table[slot]).wrapping_mul(0xd134_2543_de82_ef95).rotate_left(23).wrapping_add(step);
        table[slot] = state;
    }
    state
}

fn cpu_time_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (a, b) = (measure_speed_permille(), measure_speed_permille());
        println!("measured {a} and {b} thousandths of the standard speed");
        assert!(a > 1 && a.abs_diff(b) <= a.max(b) / 2, "{a} and {b}");
    }
}
