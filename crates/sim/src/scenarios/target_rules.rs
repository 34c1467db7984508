//! What a target owes its clients at single moments: when an owner is deposed, when a session takes the
//! place of another, when frames arrive that nobody waits for any more. Most of these rules defend each
//! other, so each course of events here goes where only one of them is left.

use std::rc::Rc;
use std::time::Duration;

use block::{IoError, Lba, SectorRange};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::common::expect;
use super::scenario;
use super::sessions::{Client, Machine, Pair, RECOVERY_MAX, busy};
use crate::medium::Survival;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Mix, Watched};
use crate::world::Process;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "held-frames",
        "all that a client sends is held up until it has a new session, and arrives when that has written: \
         void, whether the target restarted meanwhile or not",
        300,
        |stage| held_frames(stage).boxed_local(),
    ),
    scenario(
        "two-writers",
        "two processes of one owner write the same sectors at a time: in order of arrival",
        200,
        |stage| two_writers(stage).boxed_local(),
    ),
    scenario(
        "raise-and-power-cut",
        "an owner is deposed while it writes, the next one reads, then the power goes: what was read is \
         there, and the deposed one stays deposed",
        300,
        |stage| raise_and_power_cut(stage).boxed_local(),
    ),
    scenario(
        "reopened-and-power-cut",
        "the answers to writes get lost and the session with them; what is read in the next session \
         survives the power",
        300,
        |stage| reopened_and_power_cut(stage).boxed_local(),
    ),
];

/// A block of the part of the disk that clients use.
const BLOCKS: u32 = 16;
/// As many sessions as a target has at a time.
const CROWD: usize = 32;

/// A few sectors of a block: the target waits a moment for the rest of it.
fn part_of_block(pair: &Pair) -> SectorRange {
    let start = u64::from(pair.below(BLOCKS) * 8 + 1 + pair.below(4));
    SectorRange::new(Lba(start), u64::from(1 + pair.below(3)))
}

fn whole_block(pair: &Pair) -> SectorRange {
    SectorRange::new(Lba(u64::from(pair.below(BLOCKS) * 8)), 8)
}

fn micros(pair: &Pair, bound: u32) -> Duration {
    Duration::from_micros(u64::from(pair.below(bound)))
}

/// The power of the target's machine goes and comes back.
fn cut_power(pair: &Pair) {
    pair.kill_target();
    pair.target.clear();
    let survival = if pair.below(3) == 0 { Survival::Arbitrary } else { Survival::None };
    pair.disk.cut_power(survival);
    pair.start_target();
}

/// Writes in the background that aren't asked to be durable; tells whether they were answered.
fn write_volatile(
    client: &Client,
    range: SectorRange,
) -> LocalBoxFuture<'static, Option<Result<(), IoError>>> {
    let watched = client.watched.clone();
    let written = client.process.run(async move { watched.write_volatile(range).await.map(drop) });
    async move { written.await.ok() }.boxed_local()
}

/// Reads everything, as soon as the disk can be read.
async fn read_all(pair: &Pair, client: &Client) -> Result<(), Failure> {
    let (watched, process) = (client.watched.clone(), Rc::clone(&client.process));
    let director = pair.stage.world.director();
    let reading = async move {
        loop {
            let watched = watched.clone();
            match process.run(async move { watched.read_all().await }).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => director.sleep(Duration::from_millis(50)).await,
                Err(_) => return Err(Failure("the client died".to_string())),
            }
        }
    };
    let director = pair.stage.world.director();
    match runtime::timeout(&director, RECOVERY_MAX, reading).await {
        Ok(read) => read,
        Err(_) => Err(Failure(format!("the disk can't be read for {RECOVERY_MAX:?}"))),
    }
}

/// A frame that is late has mostly been sent again and been answered, so that its number is known. Here
/// no copy arrives before the client has given up.
async fn held_frames(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    let clients = pair.load(&client, Mix { span_sectors: 128, ..busy() });
    for _ in 0..4 {
        pair.sleep(pair.between(50, 800)).await;
        client.station.set_hold(true);
        pair.sleep(pair.between(100, 2500)).await;
        match pair.below(3) {
            0 => {
                pair.kill_target();
                pair.start_target();
            }
            1 => cut_power(&pair),
            _ => {}
        }
        client.station.set_hold(false);
        pair.sleep(pair.between(300, 3000)).await;
        pair.network.let_go(&client.station);
        pair.sleep(pair.between(1, 500)).await;
    }
    pair.converge(&client, clients).await
}

/// A client doesn't send what overlaps a request of its own before that is answered. With two of them
/// only the target can keep the order: here that of the calls, which are farther apart than frames take.
async fn two_writers(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let first = pair.client().await?;
    let machine = pair.machine().await?;
    let second = pair.claim(machine).await?;
    for _ in 0..6 {
        let (earlier, later) = match pair.below(2) {
            0 => (&first, &second),
            _ => (&second, &first),
        };
        let part = part_of_block(&pair);
        let block = SectorRange::new(Lba(part.start.0 / 8 * 8), 8);
        let one = change(&earlier.process, &earlier.watched, part);
        pair.sleep(Duration::from_micros(200) + micros(&pair, 250)).await;
        let other = change(&later.process, &later.watched, block);
        let both = async { (one.await, other.await) };
        let both = runtime::timeout(&stage.world.director(), RECOVERY_MAX, both).await;
        expect(matches!(both, Ok((true, true))), || "a write isn't answered".to_string())?;
        read_all(&pair, earlier).await?;
    }
    let clients = pair.load(&first, busy());
    pair.converge(&first, clients).await
}

/// Writes in the background; tells whether that was answered well.
fn change(
    process: &Process,
    watched: &Watched,
    range: SectorRange,
) -> LocalBoxFuture<'static, bool> {
    let watched = watched.clone();
    let written = process.run(async move { watched.change(Change::Write, range).await });
    async move { matches!(written.await, Ok(Ok(()))) }.boxed_local()
}

async fn raise_and_power_cut(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let mut owner = pair.client().await?;
    for _ in 0..3 {
        for _ in 0..pair.below(4) {
            write_volatile(&owner, whole_block(&pair)).await;
        }
        let machine = pair.machine().await?;
        // Nobody waits for their answers: they come, or not.
        let _writing: Vec<_> =
            (0..1 + pair.below(3)).map(|_| write_volatile(&owner, part_of_block(&pair))).collect();
        pair.sleep(micros(&pair, 450)).await;
        let next = pair.raise(machine).await?;
        read_all(&pair, &next).await?;
        // It would bring its claim anew.
        next.station.set_cut(true, true);
        cut_power(&pair);
        stays_deposed(&pair, &owner).await?;
        next.station.set_cut(false, false);
        read_all(&pair, &next).await?;
        owner.process.kill();
        owner = next;
    }
    let clients = pair.load(&owner, busy());
    pair.converge(&owner, clients).await
}

/// Whatever it tries, no write of this client is answered well.
async fn stays_deposed(pair: &Pair, client: &Client) -> Result<(), Failure> {
    for _ in 0..10 {
        let written = change(&client.process, &client.watched, whole_block(pair));
        let written = runtime::timeout(&pair.stage.world.director(), RECOVERY_MAX, written).await;
        match written {
            Ok(true) => return Err(Failure("a deposed owner's write is answered".to_string())),
            Ok(false) => pair.sleep(pair.between(1, 200)).await,
            Err(_) => return Err(Failure("a deposed owner's write hangs".to_string())),
        }
    }
    Ok(())
}

/// So many others open a session that the target gives up the one that has been idle longest.
async fn crowd(pair: &Pair) -> Result<(), Failure> {
    let mut machines = Vec::new();
    for _ in 0..CROWD {
        machines.push(pair.machine().await?);
    }
    machines.iter().for_each(Machine::kill);
    Ok(())
}

/// A client that gave a write up reads what became of it, and decides on that.
async fn reopened_and_power_cut(stage: Stage) -> Result<(), Failure> {
    let pair = Pair::new(&stage);
    let client = pair.client().await?;
    for _ in 0..3 {
        let writing: Vec<_> =
            (0..1 + pair.below(6)).map(|_| write_volatile(&client, whole_block(&pair))).collect();
        pair.sleep(micros(&pair, 200)).await;
        client.station.set_cut(false, true);
        pair.sleep(pair.between(1200, 2500)).await;
        match pair.below(4) {
            0 => crowd(&pair).await?,
            1 => pair.disk.set_gone(true),
            _ => {}
        }
        client.station.set_cut(false, false);
        pair.sleep(pair.between(1, 1500)).await;
        pair.disk.set_gone(false);
        let mut answers = Vec::new();
        for write in writing {
            answers.push(write.await);
        }
        // Where all were answered in time the session is the same, and nothing was promised.
        if answers.contains(&Some(Err(IoError::Lost))) {
            read_all(&pair, &client).await?;
            cut_power(&pair);
            read_all(&pair, &client).await?;
        } else {
            cut_power(&pair);
        }
    }
    let clients = pair.load(&client, busy());
    pair.converge(&client, clients).await
}
