//! How old the entries of the nodes' boards become: whole clusters of boards in one thread, beside
//! what the formulas say.

use serde::Serialize;

use super::{boards::Boards, parallel, scenario::Network};
use crate::{
    cluster::{Board, Entry, ExpectedAges, GossipConfig, LocalState, NodeSummary, Version, load_message_bytes},
    node::{NodeLoad, Pressure, SchedExtState},
};

/// The sizes for which the paper gives figures: nodes and window.
pub const GOSSIP_SIZES: [(usize, usize); 5] = [(64, 16), (128, 16), (256, 32), (1024, 32), (2048, 64)];

/// Boards are looked at once in so many steps: ages of neighbouring steps tell the same.
const SAMPLE_STEPS: u64 = 4;
/// Looked at for at least so many steps.
const LEAST_STEPS: u64 = 200;

/// A cluster to be simulated, all of whose nodes are alive and know each other.
#[derive(Debug, Clone, Copy)]
pub struct GossipModel {
    /// Nodes, at least two.
    pub nodes: usize,
    /// How they gossip.
    pub config: GossipConfig,
    /// The share of messages that are lost, 0 to 1.
    pub loss: f64,
    /// How long a message is under way, in milliseconds.
    pub delay_ms: u64,
}

/// The ages that came about, as the nodes know them, beside those that were expected. Ages are in
/// steps, which are periods of gossip.
#[derive(Debug, Clone, Serialize)]
pub struct GossipResult {
    /// Nodes.
    pub nodes: usize,
    /// Entries in a message.
    pub window: usize,
    /// The mean age over all nodes' boards, all entries in them but the node's own, and time.
    pub average: f64,
    /// What the formula says.
    pub expected_average: f64,
    /// The age of the oldest entry of a board, as a mean over boards and time.
    pub maximal: f64,
    /// What the formula says.
    pub expected_maximal: f64,
    /// The bytes of one message: sealed datagrams, without headers of UDP and IP.
    pub message_bytes: usize,
    /// The bytes that a node sends in a second.
    pub bytes_per_second: f64,
}

impl GossipResult {
    /// By how much the ages differ from what is expected: the greater of both differences, as a
    /// share.
    pub fn error(&self) -> f64 {
        let off = |value: f64, expected: f64| (value / expected - 1.0).abs();
        off(self.average, self.expected_average).max(off(self.maximal, self.expected_maximal))
    }
}

/// Simulates each model `runs` times, on all CPUs; the seed of run n of each is `seed` + n.
/// `progress` is told of each run that has ended, from any thread.
#[must_use]
pub fn gossip(
    models: &[GossipModel],
    seed: u64,
    runs: u64,
    progress: &(dyn Fn(&GossipModel) + Sync),
) -> Vec<GossipResult> {
    let of_runs = parallel::map(models.len() * runs as usize, |index| {
        // The last model is the largest: it begins.
        let model = &models[models.len() - 1 - index / runs as usize];
        let ages = simulate(model, seed.wrapping_add(index as u64 % runs));
        progress(model);
        ages
    });
    let of_models = of_runs.chunks(runs as usize).rev();
    models.iter().zip(of_models).map(|(model, runs)| result(model, runs)).collect()
}

/// The mean over boards and time of the average and of the maximal age, in steps.
type Ages = (f64, f64);

fn result(model: &GossipModel, runs: &[Ages]) -> GossipResult {
    let mean = |pick: fn(&Ages) -> f64| runs.iter().map(pick).sum::<f64>() / runs.len() as f64;
    let GossipConfig { window, period_ms, .. } = model.config;
    let expected = ExpectedAges::of(model.nodes, window);
    let message_bytes = load_message_bytes(model.nodes, window, &usual_state());
    GossipResult {
        nodes: model.nodes,
        window,
        average: mean(|ages| ages.0),
        expected_average: expected.average,
        maximal: mean(|ages| ages.1),
        expected_maximal: expected.maximal,
        message_bytes,
        bytes_per_second: message_bytes as f64 * 1_000.0 / period_ms as f64,
    }
}

fn simulate(model: &GossipModel, seed: u64) -> Ages {
    let GossipModel { nodes, config, loss, delay_ms } = *model;
    let boards = (0..nodes).map(|node| full_board(node, nodes)).collect();
    let mut boards = Boards::new(boards, config, Network { loss, delay_ms }, seed);
    // By one and a half times this age few entries are as old as the beginning, where all are new.
    let maximal = ExpectedAges::of(nodes, config.window).maximal / (1.0 - loss);
    let steady_ms = (1.5 * maximal).ceil() as u64 * config.period_ms;
    let end_ms = steady_ms + LEAST_STEPS.max((maximal / 2.0) as u64) * config.period_ms;
    let (mut sums, mut samples) = ((0.0, 0.0), 0.0);
    for sample_ms in (steady_ms..end_ms).step_by((SAMPLE_STEPS * config.period_ms) as usize) {
        boards.advance(sample_ms, |_, _| ());
        let (average, maximal) = ages(&boards, nodes, sample_ms);
        (sums, samples) = ((sums.0 + average, sums.1 + maximal), samples + 1.0);
    }
    let in_steps = |sum: f64| sum / samples / config.period_ms as f64;
    (in_steps(sums.0), in_steps(sums.1))
}

/// The board of `node` when all have just spoken to all.
fn full_board(node: usize, nodes: usize) -> Board<u32, ()> {
    let mut board = Board::new(node as u32, 1, (), nodes, 0);
    for other in 0..nodes {
        board.take(Entry { node: other as u32, version: Version::default(), age_ms: 0, said: () }, 0);
    }
    board
}

/// The average and the maximal age at `now_ms`, each a mean over the boards, in milliseconds.
fn ages(boards: &Boards<()>, nodes: usize, now_ms: u64) -> Ages {
    let (mut average, mut maximal) = (0.0, 0.0);
    for ages_ms in boards.ages_ms(now_ms) {
        let (mut sum, mut count, mut oldest) = (0_u64, 0_u64, 0);
        for age_ms in ages_ms {
            (sum, count, oldest) = (sum + u64::from(age_ms), count + 1, oldest.max(age_ms));
        }
        average += sum as f64 / count as f64;
        maximal += f64::from(oldest);
    }
    (average / nodes as f64, maximal / nodes as f64)
}

/// What a usual node says, for the length of messages.
fn usual_state() -> LocalState {
    let summary = NodeSummary {
        cpus: 16,
        speed_permille: 1_000,
        memory_total_bytes: 64 << 30,
        can_migrate: true,
        sched_ext: SchedExtState::Attached,
        features_hash: u64::MAX,
        protocol_version: 1,
        kernel_release: "6.12.48+deb13-amd64".into(),
        software_version: env!("CARGO_PKG_VERSION").into(),
    };
    LocalState { summary, load: NodeLoad { pressure: Some(Pressure::default()), ..NodeLoad::default() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(nodes: usize, window: usize) -> GossipModel {
        GossipModel { nodes, config: GossipConfig { window, ..GossipConfig::default() }, loss: 0.0, delay_ms: 0 }
    }

    #[test]
    fn ages_are_as_expected() {
        for result in gossip(&[model(64, 16), model(128, 16)], 1, 2, &|_| {}) {
            assert!(result.error() < 0.15, "{result:?}");
        }
    }

    #[test]
    fn loss_makes_entries_older_and_delay_is_not_noticed() {
        let average =
            |loss, delay_ms| gossip(&[GossipModel { loss, delay_ms, ..model(64, 16) }], 1, 2, &|_| {})[0].average;
        let (plain, lossy, late) = (average(0.0, 0), average(0.3, 0), average(0.0, 5));
        assert!(lossy > 1.2 * plain && lossy < 1.8 * plain, "{lossy} after {plain}");
        assert!((late / plain - 1.0).abs() < 0.05, "{late} after {plain}");
    }

    #[test]
    fn the_same_seed_gives_the_same_ages() {
        let text = || serde_json::to_string(&gossip(&[model(30, 8), model(20, 30)], 5, 4, &|_| {})).unwrap();
        assert_eq!(text(), text());
    }

    #[test]
    fn bytes_do_not_grow_with_the_cluster() {
        let bytes = |nodes| result(&model(nodes, 32), &[(1.0, 1.0)]).message_bytes;
        assert_eq!(bytes(100), bytes(10_000));
    }
}
