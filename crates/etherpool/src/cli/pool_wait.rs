//! Waiting for jobs: the pools' reports are looked at again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use client::News;
use control::api::{ApiError, ErrorCode};
use control::exit::Exit;
use pool::{JobReport, JobState, PoolDisk, PoolReport, PoolState, Progress};
use serde::de::DeserializeOwned;

use super::output::{resyncs, what_it_does};
use super::progress::ProgressDisplay;
use super::{Context, Failure};

/// How often jobs that are waited for are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in a row at which nothing is moved, or nobody answers, until they aren't waited for any more: what
/// stands in the way often goes by itself, as an engine that died is there again soon.
pub(super) const STILL_MAX: u32 = 30;

/// Jobs that are waited for.
pub struct Watch {
    title: &'static str,
    /// Name and identity; all pools without it.
    pool: Option<(String, String)>,
    /// The disks that they empty; all without.
    disks: Option<Vec<String>>,
    /// The one that is waited for; all without.
    number: Option<u32>,
    /// How far each was when it was seen last, by pool, number and disk.
    seen: BTreeMap<(String, u32, String), Progress>,
    done_bytes: u64,
    /// Looks in a row at which nothing was moved.
    still: u32,
}

/// What was seen of what is waited for.
#[derive(Debug)]
pub(super) enum Look {
    /// It is over.
    Over,
    /// It goes on.
    Going(News),
    /// There is nothing to wait for.
    Stuck(Failure),
}

impl Watch {
    /// Of a pool, or of all.
    pub fn new(title: &'static str, pool: Option<&PoolReport>) -> Watch {
        let pool = pool.map(|pool| (pool.name.clone(), pool.id.clone()));
        let seen = BTreeMap::new();
        Watch { title, pool, disks: None, number: None, seen, done_bytes: 0, still: 0 }
    }

    /// Those that empty disks.
    pub fn of(title: &'static str, pool: &PoolReport, disks: &[&PoolDisk]) -> Watch {
        let disks = disks.iter().map(|disk| disk.name.clone()).collect();
        Watch { disks: Some(disks), ..Watch::new(title, Some(pool)) }
    }

    /// One of them, of the kind that the title is.
    pub fn of_job(title: &'static str, pool: &PoolReport, number: u32) -> Watch {
        Watch { number: Some(number), ..Watch::new(title, Some(pool)) }
    }

    fn look(&mut self, pools: &[PoolReport]) -> Look {
        let is_it = |pool: &&PoolReport| self.pool.as_ref().is_none_or(|(_, id)| *id == pool.id);
        let pools: Vec<&PoolReport> = pools.iter().filter(is_it).collect();
        if let (Some((name, _)), []) = (&self.pool, &pools[..]) {
            let message = format!("pool {name} is not present");
            return self.patient(ApiError::new(ErrorCode::Unavailable, message).into());
        }
        let (mut going, mut stands, mut closed) = (false, None, None);
        let mut jobs = BTreeMap::new();
        for pool in pools {
            let is_given_up = matches!(pool.state, PoolState::Fenced) || !pool.is_ours();
            if is_given_up && self.pool.is_some() {
                let message = format!("pool {} is {}", pool.name, pool.state_text());
                return Look::Stuck(ApiError::new(ErrorCode::NotOwner, message).into());
            }
            if !is_given_up && !matches!(pool.state, PoolState::Online | PoolState::Degraded) {
                closed = Some(pool);
            }
            let wanted = |job: &&JobReport| {
                self.disks.as_ref().is_none_or(|disks| disks.contains(&job.disk))
                    // A number may be another job's by now.
                    && self.number.is_none_or(|number| number == job.number && self.title == job.kind)
            };
            for job in pool.jobs.iter().filter(wanted) {
                let JobReport { total_bytes, left_bytes, .. } = *job;
                let done_bytes = total_bytes.saturating_sub(left_bytes);
                let key = (pool.name.clone(), job.number, job.disk.clone());
                jobs.insert(key, Progress { done_bytes, total_bytes });
                match &job.state {
                    JobState::Running => going = true,
                    JobState::Waiting { why } => {
                        let (number, what) = (job.number, what_it_does(job));
                        let name = &pool.name;
                        let message = format!("job {number} of pool {name} ({what}) waits: {why}");
                        let error = ApiError::new(ErrorCode::Suspended, message).remedy(
                            "it goes on by itself when that has changed; `etherpool pool cancel` gives it up",
                        );
                        stands = Some(error);
                    }
                    // It was evacuated before, and is gone from the list soon.
                    JobState::Done if job.kind == "remove" => going = true,
                    JobState::Done | JobState::Unknown => {}
                }
            }
            let all = self.disks.is_none() && self.number.is_none();
            for JobReport { disk, left_bytes, .. } in resyncs(pool).filter(|_| all) {
                let key = (pool.name.clone(), 0, disk);
                // How much it was when it began isn't known.
                let most = self.seen.get(&key).map_or(0, |seen| seen.total_bytes);
                let total_bytes = most.max(left_bytes);
                let done_bytes = total_bytes - left_bytes;
                let (name, disk) = (&pool.name, &key.2);
                let message = format!("disk {disk} of pool {name} doesn't get what it missed");
                stands.get_or_insert_with(|| {
                    ApiError::new(ErrorCode::Suspended, message).remedy(format!(
                        "see `etherpool pool show {name}`, and the supervisor's log"
                    ))
                });
                jobs.insert(key, Progress { done_bytes, total_bytes });
            }
        }
        if let Some(pool @ PoolReport { name, state, .. }) = closed {
            let message = format!("pool {name} is {}", pool.state_text());
            // However much there is to be read.
            if matches!(state, PoolState::Opening) {
                return Look::Going(News::Waiting(message));
            }
            let error = ApiError::new(ErrorCode::Suspended, message)
                .remedy(format!("see `etherpool pool show {name}`"));
            return self.patient(error.into());
        }
        // What isn't listed any more is done.
        self.seen.values_mut().for_each(|job| job.done_bytes = job.total_bytes);
        self.seen.extend(jobs);
        let sum = |of: fn(&Progress) -> u64| self.seen.values().map(of).sum();
        let all =
            Progress { done_bytes: sum(|p| p.done_bytes), total_bytes: sum(|p| p.total_bytes) };
        let moved = std::mem::replace(&mut self.done_bytes, all.done_bytes) != all.done_bytes;
        match stands {
            Some(error) if !going && !moved => self.patient(error.into()),
            None if !going => Look::Over,
            _ => {
                self.still = 0;
                Look::Going(News::Progress(all))
            }
        }
    }

    /// What stands in the way may go by itself.
    fn patient(&mut self, failure: Failure) -> Look {
        self.still += 1;
        match self.still < STILL_MAX {
            true => Look::Going(News::Waiting(failure.error.message)),
            false => Look::Stuck(failure),
        }
    }
}

/// Waits until the jobs are over, and shows how far they are.
pub async fn wait(context: &Context, mut watch: Watch) -> Result<(), Failure> {
    let title = watch.title;
    let look = |answer: Result<Vec<PoolReport>, Failure>| match answer {
        Ok(pools) => watch.look(&pools),
        Err(failure) => watch.patient(failure),
    };
    look_until_over(context, title, "/v2/pools", look).await
}

/// Looks at a report again and again until that is over, and shows how far it is. `look` judges what was answered, or
/// that nobody answers now: an engine that died is there again soon.
pub(super) async fn look_until_over<T: DeserializeOwned>(
    context: &Context,
    title: &'static str,
    path: &str,
    mut look: impl FnMut(Result<T, Failure>) -> Look,
) -> Result<(), Failure> {
    let mut display = ProgressDisplay::new(title, context.json);
    loop {
        let answer = context.client.get::<T>(path).await.map_err(Failure::from);
        if let Err(failure) = &answer
            && !matches!(failure.exit, Exit::Unavailable | Exit::NotRunning)
        {
            return answer.map(drop);
        }
        match look(answer) {
            Look::Over => return Ok(()),
            Look::Stuck(failure) => return Err(failure),
            Look::Going(news) => display.update(&news),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::samples;

    fn pool_with(jobs: Vec<JobReport>) -> PoolReport {
        PoolReport { jobs, ..samples::pool() }
    }

    #[test]
    fn jobs_are_waited_for_until_none_moves_anything() {
        let job = samples::job();
        let running = pool_with(vec![job.clone()]);
        let mut watch = Watch::of("evacuate", &running, &[&running.disks[0]]);
        let Look::Going(News::Progress(progress)) = watch.look(std::slice::from_ref(&running))
        else {
            panic!("it runs");
        };
        assert_eq!((progress.done_bytes, progress.total_bytes), (3 << 28, 1 << 30));
        let other = JobReport { disk: "e2.0".into(), ..job.clone() };
        let done = JobReport { state: JobState::Done, left_bytes: 0, ..job.clone() };
        let removed = JobReport { kind: "remove".into(), ..done.clone() };
        assert!(matches!(watch.look(&[pool_with(vec![removed])]), Look::Going(_)));
        assert!(matches!(watch.look(&[pool_with(vec![done, other])]), Look::Over));
        assert!(matches!(watch.look(&[pool_with(Vec::new())]), Look::Over));

        // A disk that gets what it missed is waited for with all jobs, not with one that is named.
        let behind = |dirty_bytes| {
            let mut pool = pool_with(Vec::new());
            pool.disks[0].dirty_bytes = dirty_bytes;
            [pool]
        };
        let mut all = Watch::new("jobs", None);
        assert!(matches!(all.look(&behind(100)), Look::Going(_)));
        let Look::Going(News::Progress(progress)) = all.look(&behind(25)) else { panic!() };
        assert_eq!(progress, Progress { done_bytes: 75, total_bytes: 100 });
        assert!(matches!(all.look(&behind(0)), Look::Over));
        assert!(matches!(Watch::of_job("scrub", &running, 9).look(&behind(9)), Look::Over));

        // An engine that has just begun knows no jobs.
        let opening = PoolReport { state: PoolState::Opening, ..pool_with(Vec::new()) };
        assert!(matches!(watch.look(&[opening]), Look::Going(News::Waiting(_))));
        let why = "2 of 5 votes are in reach".to_owned();
        let state = PoolState::Suspended { why };
        let suspended = [PoolReport { state, ..pool_with(Vec::new()) }];
        for _ in 1..STILL_MAX {
            assert!(matches!(watch.look(&suspended), Look::Going(News::Waiting(_))));
        }
        assert!(matches!(watch.look(&suspended), Look::Stuck(_)));
        let released = PoolReport { state: PoolState::Released, ..pool_with(Vec::new()) };
        assert!(matches!(watch.look(&[released]), Look::Stuck(_)));
    }

    #[test]
    fn jobs_that_wait_end_the_wait() {
        let why = "there is no room for the rest".to_owned();
        let job = JobReport { state: JobState::Waiting { why }, ..samples::job() };
        let moves = JobReport { left_bytes: job.left_bytes - 1, ..job.clone() };
        let (waiting, moved) = (pool_with(vec![job]), pool_with(vec![moves]));
        let mut watch = Watch::new("jobs", None);
        for _ in 0..STILL_MAX {
            assert!(matches!(watch.look(std::slice::from_ref(&waiting)), Look::Going(_)));
        }
        // As long as others of its moves end it goes on.
        assert!(matches!(watch.look(std::slice::from_ref(&moved)), Look::Going(News::Progress(_))));
        for _ in 1..STILL_MAX {
            assert!(matches!(watch.look(std::slice::from_ref(&moved)), Look::Going(_)));
        }
        let Look::Stuck(failure) = watch.look(&[moved]) else { panic!("nothing moves") };
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.error.message.contains("no room for the rest"), "{failure:?}");
    }
}
