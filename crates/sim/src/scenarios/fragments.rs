//! Commands in fragments (docs/session.md): lost, doubled, reordered, late, over two paths, through
//! restarts, and between ends of different versions.

use std::time::Duration;

use aoe_wire::SessionVersion;
use block::{IoError, Lba, SectorRange};
use futures::FutureExt;
use futures::future::join_all;

use super::common::expect;
use super::scenario;
use super::sessions::{Client, Pair, busy};
use crate::disk::Latency;
use crate::network::Quality;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "fragments-bad-network",
        "commands of hundreds of frames over cables that lose, double, reorder, damage and hold them up",
        600,
        |stage| bad_network(stage).boxed_local(),
    ),
    scenario(
        "fragments-restarts",
        "targets and sessions end in the middle of long commands, what was under way arrives in the next",
        600,
        |stage| restarts(stage).boxed_local(),
    ),
    scenario(
        "fragments-two-paths",
        "two paths that carry fragments of different sizes, cut by turns in the middle of commands",
        600,
        |stage| two_paths(stage).boxed_local(),
    ),
    scenario(
        "together-swallowed",
        "short requests in plenty through a switch that swallows longer frames than the standard's, from the \
         beginning or once longer ones have passed",
        120,
        |stage| swallowed(stage).boxed_local(),
    ),
    scenario(
        "versions",
        "target and clients of each version of the session, upgraded and downgraded under load",
        600,
        |stage| versions(stage).boxed_local(),
    ),
];

/// Operations of up to a megabyte that overlap a lot.
fn long() -> Mix {
    Mix {
        depth: 4,
        sectors_max: 1800,
        span_sectors: 3000,
        think: Duration::from_millis(40),
        ..busy()
    }
}

/// Often enough that few commands get through unharmed, whatever their frames are.
fn lossy(pair: &Pair) -> Quality {
    Quality {
        loss: 0.01 * f64::from(pair.below(3)),
        duplication: 0.03 * f64::from(pair.below(4)),
        corruption: 0.003 * f64::from(pair.below(2)),
        stragglers: 0.001 * f64::from(pair.below(3)),
        jitter: Duration::from_micros(u64::from(pair.below(1500))),
        ..Quality::GOOD
    }
}

async fn bad_network(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    let clients = pair.load(&client, long());
    for _ in 0..4 {
        pair.target.set_quality(lossy(&pair));
        pair.sleep(pair.between(500, 3000)).await;
    }
    pair.converge(&client, clients).await
}

async fn restarts(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    let clients = pair.load(&client, long());
    for _ in 0..8 {
        pair.target.set_quality(lossy(&pair));
        pair.sleep(pair.between(5, 900)).await;
        match pair.below(4) {
            0 => {
                pair.kill_target();
                pair.sleep(pair.between(0, 1500)).await;
                pair.start_target();
            }
            1 => pair.kill_and_start_target(),
            which => {
                // Given up, and what was on its way arrives when the next session has begun.
                let station = if which == 2 { &client.station } else { &pair.target };
                station.set_hold(true);
                pair.sleep(pair.between(1050, 1500)).await;
                station.set_hold(false);
                pair.sleep(pair.between(0, 1200)).await;
                pair.network.let_go(station);
            }
        }
    }
    pair.converge(&client, clients).await
}

async fn two_paths(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::on_two_paths(&stage);
    let client = pair.client().await?;
    let clients = pair.load(&client, long());
    for _ in 0..8 {
        pair.sleep(pair.between(5, 700)).await;
        for target in pair.targets() {
            target.set_quality(lossy(&pair));
        }
        let which = pair.below(2) as usize;
        let cut = pair.targets()[which].clone();
        match pair.below(3) {
            0 => cut.set_cut(true, false),
            1 => cut.set_cut(false, true),
            _ => cut.set_cut(true, true),
        }
        pair.sleep(pair.between(1, 900)).await;
        cut.set_cut(false, false);
    }
    pair.converge(&client, clients).await
}

/// Writes all of these at once.
async fn write_all(client: &Client, places: Vec<SectorRange>) -> Result<(), Failure> {
    let watched = client.watched.clone();
    let writes = async move {
        let writes = places.into_iter().map(|place| watched.change(Change::Write, place));
        join_all(writes).await.into_iter().collect::<Result<Vec<()>, IoError>>()
    };
    let written =
        client.process.run(writes).await.map_err(|_| Failure("the client died".into()))?;
    written.map(drop).map_err(|error| Failure(format!("a write failed: {error}")))
}

/// Short writes in plenty.
async fn burst(client: &Client) -> Result<(), Failure> {
    let place = |number: u64| SectorRange::new(Lba(number * 2), 1);
    write_all(client, (0..40).map(place).collect()).await
}

/// Nobody would guess from short messages that the length of their frames is why they get lost.
async fn swallowed(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    pair.target.set_mtu_bytes(9000);
    pair.kill_and_start_target();
    let was_known = pair.below(2) == 0;
    if !was_known {
        pair.network.set_mtu_bytes(1500);
    }
    let client = pair.client().await?;
    if was_known {
        write_all(&client, vec![SectorRange::new(Lba(0), 16)]).await?;
        // All is answered at the same time.
        pair.disk.set_latency(Latency { spread: Duration::ZERO, ..Latency::FAST });
        let before = pair.network.counters().delivered;
        for _ in 0..20 {
            burst(&client).await?;
        }
        // Alone they would be 1,600.
        let frames = pair.network.counters().delivered - before;
        expect(frames < 600, || format!("20 times 40 short writes in {frames} frames"))?;
        pair.network.set_mtu_bytes(1500);
    }
    let director = pair.stage.world.director();
    let begun = director.now();
    for _ in 0..20 {
        burst(&client).await?;
    }
    let took = director.now().since(begun);
    // A millisecond each where nothing is lost, else as long as it takes to notice.
    let most = Duration::from_millis(if was_known { 500 } else { 60 });
    expect(took < most, || format!("20 times 40 short writes took {took:?}"))
}

async fn versions(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let any = || match pair.below(3) {
        0 => SessionVersion::One,
        1 => SessionVersion::Two,
        _ => SessionVersion::Three,
    };
    pair.speak(any(), any());
    pair.kill_and_start_target();
    let mut client = pair.client().await?;
    let mut clients = pair.load(&client, long());
    for _ in 0..6 {
        pair.target.set_quality(lossy(&pair));
        pair.sleep(pair.between(50, 1000)).await;
        pair.speak(any(), any());
        if pair.below(3) == 0 {
            // The next owner, of another version perhaps.
            client.process.kill();
            client = pair.client().await?;
            clients = pair.load(&client, long());
        } else {
            pair.kill_target();
            pair.sleep(pair.between(0, 1500)).await;
            pair.start_target();
        }
    }
    pair.converge(&client, clients).await
}
