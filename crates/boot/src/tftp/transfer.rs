//! One file on its way to one client: which blocks it has, which are on their way, and when to send those again.
//!
//! What was sent is known by the numbers of blocks, so nothing has to be kept of it.
//!
//! Duplicates of acknowledgements are where TFTP goes wrong (the sorcerer's apprentice, RFC 1123, 4.2.3.1): if each
//! makes data be sent again, each copy of the data makes another duplicate, and all is sent twice up to the end. So
//! without windows they count for nothing, and only the clock makes data be sent again.
//!
//! With windows it is harder. A client that misses a block acknowledges the one before it, and by RFC 7440 the next
//! window begins behind that one: it repeats blocks that are on their way still. But a client does the same when a
//! block comes twice (EDK2 each time). So what the network doubles or delays once makes copies, these are acknowledged
//! in the midst of a window, and that makes further copies up to the end. Therefore an acknowledgement that copies
//! could have provoked is in doubt: only blocks are sent that weren't yet, and if the client does miss one it doesn't
//! go on, which shows after a moment. Where it shows, more is believed the next time.

use std::time::Duration;

use block::Instant;

use super::packet::{self, BLKSIZE, BLKSIZE_MAX, BLKSIZE_MIN, Options};

/// The longest `timeout` that is agreed to. RFC 2349 has up to 255 seconds: by these a client that is gone would be
/// waited for for half an hour.
const TIMEOUT_MAX: u8 = 10;
/// What is waited for the first time. In a local network answers take less than a millisecond: after a second they
/// are lost, and a ROM that waits isn't at its own end yet, which comes after a few seconds.
const WAIT: Duration = Duration::from_secs(1);
/// It is doubled as often: whoever doesn't answer for that long needs time (a link that comes up again, a client that
/// unpacks something), but with more than 8 seconds some ROMs would have given up between two tries.
const DOUBLED_MAX: u32 = 3;
/// How long a client with windows may not go on after it seems to miss something. Much longer than an answer takes in
/// a local network, where EDK2 looks for packets every 10 milliseconds.
const DOUBT: Duration = Duration::from_millis(50);
/// Doubtful acknowledgements that are believed at most until there is a doubt again.
const TRUST_MAX: u32 = 64;
/// How often something is sent until the client is given up: after 31 seconds if no `timeout` was agreed.
const TRIES_MAX: u32 = 6;
/// The same as long as nothing came back: who knows whether the request came from there. After 15 seconds.
const TRIES_UNANSWERED_MAX: u32 = 4;
/// Blocks of a window at most, whatever limit was given. Far from the 65536 after which their numbers begin anew, so
/// that no old acknowledgement looks like one of the window.
const WINDOWSIZE_MAX: u16 = 1024;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A DATA packet: [`packet::data_header`], and that part of the file.
    Data {
        /// Its number in the packet.
        block: u16,
        /// Where its data begin in the file.
        offset: u64,
        /// Bytes of them. None in the last block of a file that fills all others.
        len: usize,
    },
    /// These bytes.
    Packet(Vec<u8>),
}

/// What follows from something that happened to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Send what is on its way from this block on.
    Send(u64),
    /// The client has the file.
    Complete,
    /// It is gone.
    GiveUp,
}

/// What is agreed to of what a client asked.
pub(super) fn agree(asked: Options, blksize_max: u16, windowsize_max: u16) -> Options {
    let blksize_max = blksize_max.clamp(BLKSIZE_MIN, BLKSIZE_MAX);
    let windowsize_max = windowsize_max.clamp(1, WINDOWSIZE_MAX);
    Options {
        blksize: asked.blksize.map(|size| size.min(blksize_max)),
        // No other value than that which was asked for may be answered.
        timeout: asked.timeout.filter(|seconds| *seconds <= TIMEOUT_MAX),
        tsize: asked.tsize,
        windowsize: asked.windowsize.map(|blocks| blocks.min(windowsize_max)),
    }
}

/// Blocks are counted from 1 here, and not from anew as in packets.
pub(super) struct Transfer {
    options: Options,
    size: u64,
    /// The client has acknowledged something.
    answered: bool,
    /// The last block that the client has.
    acknowledged: u64,
    /// The last that was sent.
    sent: u64,
    /// The last that was sent more than once.
    repeated: u64,
    /// How often what is on its way was sent because nothing came.
    tries: u32,
    due: Instant,
    doubt: Doubt,
    /// How many doubtful acknowledgements are believed. It grows when doubts were wrong: of some clients each window
    /// gets lost in part, always, because they have asked for more than they have room for.
    trust: u32,
    /// How many of these are left.
    believed: u32,
}

/// Whether the client misses something, which shows when the transfer is due. At most once until it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    None,
    /// It has said the same once more.
    Repetition,
    /// It has acknowledged a part of a window, and what it has and what is on its way wasn't sent again.
    Part,
    /// Its window was sent again.
    Over,
}

impl Transfer {
    /// Of a file of `size` bytes. All that is on its way is to be sent.
    pub(super) fn new(agreed: Options, size: u64, now: Instant) -> Transfer {
        Transfer {
            options: agreed,
            size,
            answered: false,
            acknowledged: 0,
            // An OACK stands for block 0.
            sent: if agreed.any() { 0 } else { 1 },
            repeated: 0,
            tries: 1,
            due: now + wait(agreed.timeout, 1),
            doubt: Doubt::None,
            trust: 0,
            believed: 0,
        }
    }

    /// What was sent, isn't acknowledged and isn't before this block. Before the first answer no more than one packet.
    pub(super) fn on_its_way(&self, from: u64) -> impl Iterator<Item = Outgoing> {
        let greeting = (!self.answered && self.options.any())
            .then(|| Outgoing::Packet(packet::option_ack(&self.options, self.size)));
        let blocks = from.max(self.acknowledged + 1)..=self.sent;
        greeting.into_iter().chain(blocks.map(|block| self.block(block)))
    }

    /// The client says that it has a block and all before it.
    pub(super) fn acknowledge(&mut self, now: Instant, block: u16) -> Step {
        let ahead = u64::from(block.wrapping_sub(number_of(self.acknowledged)));
        let is_of_options = !self.answered && self.options.any();
        if ahead > self.sent - self.acknowledged {
            return Step::Nothing;
        }
        if ahead == 0 && !is_of_options {
            return self.stand_still(now);
        }
        self.answered = true;
        self.acknowledged += ahead;
        if self.acknowledged == self.last() { Step::Complete } else { self.go_on(now) }
    }

    /// It is [`Transfer::due`].
    pub(super) fn expire(&mut self, now: Instant) -> Step {
        if matches!(self.doubt, Doubt::Repetition | Doubt::Part) {
            if self.doubt == Doubt::Part {
                self.trust = (self.trust * 2).clamp(1, TRUST_MAX);
                self.believed = self.trust;
            }
            self.doubt = Doubt::Over;
            return self.send_again(now);
        }
        let most = if self.answered { TRIES_MAX } else { TRIES_UNANSWERED_MAX };
        if self.tries >= most {
            return Step::GiveUp;
        }
        self.tries += 1;
        self.send_again(now)
    }

    /// When to call [`Transfer::expire`].
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether the client has acknowledged anything.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether all was sent at least once.
    pub(super) fn is_all_sent(&self) -> bool {
        self.sent == self.last()
    }

    /// What the client has said that it has.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.acknowledged * self.blksize()
    }

    /// Something new was acknowledged, and the next window begins behind it.
    fn go_on(&mut self, now: Instant) -> Step {
        let already = self.sent;
        self.sent = (self.acknowledged + self.windowsize()).min(self.last());
        self.tries = 1;
        self.due = now + wait(self.options.timeout, self.tries);
        if self.doubt == Doubt::Part {
            (self.trust, self.believed) = (0, 0);
        }
        self.doubt = Doubt::None;
        if already <= self.acknowledged {
            return Step::Send(self.acknowledged + 1);
        }
        if self.acknowledged <= self.repeated && self.believed == 0 {
            self.begin_doubt(now, Doubt::Part);
            return Step::Send(already + 1);
        }
        if self.acknowledged <= self.repeated {
            self.believed -= 1;
        }
        self.repeated = already;
        Step::Send(self.acknowledged + 1)
    }

    /// The last acknowledgement has come once more.
    fn stand_still(&mut self, now: Instant) -> Step {
        if self.windowsize() == 1 || self.doubt != Doubt::None {
            return Step::Nothing;
        }
        // If there are no copies, neither of this window nor of the one before, nothing can have provoked it but that
        // the first block of the window is missed.
        if self.acknowledged >= self.repeated + self.windowsize() {
            self.doubt = Doubt::Over;
            return self.send_again(now);
        }
        self.begin_doubt(now, Doubt::Repetition);
        Step::Nothing
    }

    fn begin_doubt(&mut self, now: Instant, doubt: Doubt) {
        self.doubt = doubt;
        self.due = self.due.min(now + DOUBT);
    }

    fn send_again(&mut self, now: Instant) -> Step {
        self.repeated = self.sent;
        self.due = now + wait(self.options.timeout, self.tries);
        Step::Send(self.acknowledged + 1)
    }

    fn block(&self, block: u64) -> Outgoing {
        let offset = (block - 1) * self.blksize();
        let len = (self.size - offset).min(self.blksize()) as usize;
        Outgoing::Data { block: number_of(block), offset, len }
    }

    /// The block that ends the file by not being full.
    fn last(&self) -> u64 {
        self.size / self.blksize() + 1
    }

    fn blksize(&self) -> u64 {
        u64::from(self.options.blksize.unwrap_or(BLKSIZE))
    }

    fn windowsize(&self) -> u64 {
        u64::from(self.options.windowsize.unwrap_or(1))
    }
}

/// As it is in packets: after 65535 comes 0.
fn number_of(block: u64) -> u16 {
    (block & 0xffff) as u16
}

/// How long to wait for an answer. An agreed time stays as it was agreed.
fn wait(agreed: Option<u8>, tries: u32) -> Duration {
    match agreed {
        Some(seconds) => Duration::from_secs(seconds.into()),
        None => WAIT * (1 << tries.saturating_sub(1).min(DOUBLED_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Options =
        Options { blksize: None, timeout: None, tsize: false, windowsize: None };

    const NO_BLOCKS: [u16; 0] = [];

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn windowed(windowsize: u16, blocks: u64) -> Transfer {
        let options = Options { blksize: Some(8), windowsize: Some(windowsize), ..NOTHING };
        let mut transfer = Transfer::new(options, blocks * 8 - 1, at(0));
        let window: Vec<u16> = (1..=windowsize.min(blocks as u16)).collect();
        assert_eq!(acknowledge(&mut transfer, 0, 0), window);
        transfer
    }

    /// Numbers of the blocks that are sent.
    fn sent(transfer: &Transfer, step: Step) -> Vec<u16> {
        let number = |outgoing| match outgoing {
            Outgoing::Data { block, .. } => block,
            Outgoing::Packet(packet) => panic!("{packet:?}"),
        };
        match step {
            Step::Nothing => Vec::new(),
            Step::Send(from) => transfer.on_its_way(from).map(number).collect(),
            Step::Complete | Step::GiveUp => panic!("{step:?}"),
        }
    }

    fn acknowledge(transfer: &mut Transfer, ms: u64, block: u16) -> Vec<u16> {
        let step = transfer.acknowledge(at(ms), block);
        sent(transfer, step)
    }

    fn expire(transfer: &mut Transfer) -> Vec<u16> {
        let step = transfer.expire(transfer.due());
        sent(transfer, step)
    }

    fn ms(now: Instant) -> u64 {
        now.as_nanos() / 1_000_000
    }

    #[test]
    fn the_end_of_a_file_is_a_block_that_isnt_full() {
        for (size, lens) in [
            (0, &[0][..]),
            (1, &[1]),
            (511, &[511]),
            (512, &[512, 0]),
            (513, &[512, 1]),
            (1024, &[512, 512, 0]),
        ] {
            let mut transfer = Transfer::new(NOTHING, size, at(0));
            for (n, len) in lens.iter().enumerate() {
                let (block, offset) = (n as u16 + 1, n as u64 * 512);
                let sent: Vec<Outgoing> = transfer.on_its_way(0).collect();
                assert_eq!(sent, [Outgoing::Data { block, offset, len: *len }], "{size}");
                let is_last = n + 1 == lens.len();
                assert_eq!(transfer.is_all_sent(), is_last);
                let step = if is_last { Step::Complete } else { Step::Send(n as u64 + 2) };
                assert_eq!(transfer.acknowledge(at(0), block), step, "{size}");
            }
        }
    }

    #[test]
    fn options_are_agreed_within_limits() {
        let asked = |blksize, timeout, windowsize| Options {
            blksize: Some(blksize),
            timeout: Some(timeout),
            tsize: true,
            windowsize: Some(windowsize),
        };
        assert_eq!(agree(asked(8, 10, 1), 1468, 64), asked(8, 10, 1));
        assert_eq!(agree(asked(65464, 1, 65535), 1468, 64), asked(1468, 1, 64));
        assert_eq!(agree(asked(65464, 11, 65535), 65535, 65535).timeout, None);
        assert_eq!(agree(asked(65464, 1, 65535), 65535, 65535), asked(65464, 1, WINDOWSIZE_MAX));
        assert_eq!(agree(asked(512, 1, 2), 0, 0), asked(8, 1, 1));
        assert!(!agree(NOTHING, 1468, 64).any());
    }

    #[test]
    fn nothing_but_the_oack_is_sent_until_it_is_acknowledged() {
        let options = Options { windowsize: Some(4), tsize: true, ..NOTHING };
        let mut transfer = Transfer::new(options, 9999, at(0));
        let oack = [Outgoing::Packet(b"\0\x06tsize\x009999\0windowsize\x004\0".to_vec())];
        for block in [1, 2, 4, 65535] {
            assert_eq!(transfer.acknowledge(at(0), block), Step::Nothing);
        }
        assert!(transfer.on_its_way(0).eq(oack.clone()) && !transfer.is_answered());
        assert!(matches!(transfer.expire(at(1000)), Step::Send(_)));
        assert!(transfer.on_its_way(0).eq(oack));
        assert_eq!(acknowledge(&mut transfer, 1000, 0), [1, 2, 3, 4]);
        assert!(transfer.is_answered());
        // Without options the first block is what is answered.
        let mut transfer = Transfer::new(NOTHING, 9999, at(0));
        assert_eq!(acknowledge(&mut transfer, 0, 0), NO_BLOCKS);
        assert!(!transfer.is_answered());
        assert_eq!(acknowledge(&mut transfer, 0, 1), [2]);
        assert!(transfer.is_answered());
    }

    #[test]
    fn without_windows_a_duplicate_does_nothing_at_all() {
        let mut transfer = Transfer::new(NOTHING, 9999, at(0));
        assert_eq!(acknowledge(&mut transfer, 0, 1), [2]);
        assert_eq!(acknowledge(&mut transfer, 10, 2), [3]);
        for block in [2, 1, 0, 2, 4, 65535] {
            assert_eq!(acknowledge(&mut transfer, 20, block), NO_BLOCKS);
            assert_eq!(ms(transfer.due()), 1010);
        }
        assert_eq!(expire(&mut transfer), [3]);
    }

    #[test]
    fn an_acknowledgement_within_a_window_begins_another_behind_it() {
        let mut transfer = windowed(4, 100);
        assert_eq!(acknowledge(&mut transfer, 0, 2), [3, 4, 5, 6]);
        // Said more than once by some clients, for each block behind the one that they miss.
        for _ in 0..5 {
            assert_eq!(acknowledge(&mut transfer, 0, 2), NO_BLOCKS);
        }
        for block in [0, 1, 7, 65535] {
            assert_eq!(acknowledge(&mut transfer, 0, block), NO_BLOCKS, "{block} isn't on its way");
        }
        assert_eq!(acknowledge(&mut transfer, 0, 6), [7, 8, 9, 10]);
        assert_eq!(acknowledge(&mut transfer, 0, 9), [10, 11, 12, 13]);
        let mut transfer = windowed(4, 6);
        assert_eq!(acknowledge(&mut transfer, 0, 4), [5, 6], "not beyond the end");
        assert_eq!(transfer.acknowledge(at(0), 6), Step::Complete);
    }

    #[test]
    fn what_copies_may_have_provoked_is_not_believed_at_once() {
        // A second 2 came, and is acknowledged.
        let mut transfer = windowed(4, 100);
        assert_eq!(acknowledge(&mut transfer, 0, 2), [3, 4, 5, 6]);
        // So are the copies of 3 and 4. It is the 6th and not the 7th at which the client says something next.
        assert_eq!(acknowledge(&mut transfer, 10, 4), [7, 8]);
        assert_eq!(acknowledge(&mut transfer, 10, 4), NO_BLOCKS);
        assert_eq!(ms(transfer.due()), 60);
        assert_eq!(acknowledge(&mut transfer, 20, 8), [9, 10, 11, 12]);
        assert_eq!(ms(transfer.due()), 1020);
        // If it was the truth, nothing else comes.
        let mut transfer = windowed(4, 100);
        assert_eq!(acknowledge(&mut transfer, 0, 2), [3, 4, 5, 6]);
        assert_eq!(acknowledge(&mut transfer, 10, 4), [7, 8]);
        assert_eq!(expire(&mut transfer), [5, 6, 7, 8]);
        assert_eq!(ms(transfer.due()), 1060);
        assert_eq!(acknowledge(&mut transfer, 70, 4), NO_BLOCKS, "once is enough");
        assert_eq!(ms(transfer.due()), 1060);
    }

    #[test]
    fn a_client_that_does_miss_something_is_believed_the_next_time() {
        let mut transfer = windowed(8, 1000);
        let mut position = 0;
        let mut doubts = Vec::new();
        // It has room for two blocks, and has asked for eight.
        for n in 0..20 {
            position += 2;
            let mut window = acknowledge(&mut transfer, 0, position);
            if window.len() < 8 {
                doubts.push(n);
                assert_eq!(window, [position + 7, position + 8]);
                window = expire(&mut transfer);
            }
            assert_eq!(window, Vec::from_iter(position + 1..=position + 8));
        }
        assert_eq!(doubts, [1, 3, 6, 11], "twice as many are believed each time");
        // Until a doubt was right: it was the network that had brought something twice.
        assert_eq!(transfer.believed, 0);
        let position = position + 4;
        assert_eq!(acknowledge(&mut transfer, 0, position).len(), 4);
        assert_eq!(acknowledge(&mut transfer, 0, position + 8).len(), 8);
        assert_eq!(acknowledge(&mut transfer, 0, position + 10).len(), 8);
        assert_eq!(acknowledge(&mut transfer, 0, position + 12).len(), 2);
        assert_eq!(expire(&mut transfer).len(), 8);
        assert_eq!((transfer.trust, transfer.believed), (1, 1));
    }

    #[test]
    fn a_missed_first_block_of_a_window_is_sent_again_once() {
        let mut transfer = windowed(4, 100);
        assert_eq!(acknowledge(&mut transfer, 0, 4), [5, 6, 7, 8]);
        assert_eq!(acknowledge(&mut transfer, 0, 4), [5, 6, 7, 8]);
        assert_eq!(acknowledge(&mut transfer, 0, 4), NO_BLOCKS);
        assert_eq!(ms(transfer.due()), 1000);
        // What came twice is acknowledged twice: that is no reason.
        assert_eq!(acknowledge(&mut transfer, 0, 8), [9, 10, 11, 12]);
        assert_eq!(acknowledge(&mut transfer, 10, 8), NO_BLOCKS);
        assert_eq!(ms(transfer.due()), 60);
        assert_eq!(expire(&mut transfer), [9, 10, 11, 12]);
        // Nor are duplicates of the OACK.
        let mut transfer = windowed(4, 100);
        assert_eq!(acknowledge(&mut transfer, 0, 0), NO_BLOCKS);
        assert_eq!(ms(transfer.due()), 50);
        assert_eq!(expire(&mut transfer), [1, 2, 3, 4]);
        assert_eq!(acknowledge(&mut transfer, 50, 0), NO_BLOCKS);
        assert_eq!(ms(transfer.due()), 1050);
    }

    #[test]
    fn numbers_of_blocks_begin_anew() {
        let mut transfer = windowed(4, 200_000);
        for number in (1..=40_000_u64).map(|n| number_of(n * 4)) {
            assert_eq!(acknowledge(&mut transfer, 0, number).len(), 4);
        }
        let ends = Outgoing::Data { block: number_of(160_001), offset: 160_000 * 8, len: 8 };
        assert_eq!(transfer.on_its_way(0).next(), Some(ends));
        let mut transfer = windowed(4, 200_000);
        assert_eq!(acknowledge(&mut transfer, 0, 2), [3, 4, 5, 6]);
        let mut window = Vec::new();
        for number in (1..16_384).map(|n| n * 4 + 2) {
            window = acknowledge(&mut transfer, 0, number);
        }
        assert_eq!(window, [65535, 0, 1, 2]);
        assert_eq!(acknowledge(&mut transfer, 0, 65533), NO_BLOCKS);
        assert_eq!(acknowledge(&mut transfer, 0, 0), [1, 2, 3, 4]);
        let begins = Outgoing::Data { block: 1, offset: 65536 * 8, len: 8 };
        assert_eq!(transfer.on_its_way(0).next(), Some(begins));
    }

    /// When something is sent, in seconds, and last when it is given up.
    fn tries(transfer: &mut Transfer) -> Vec<u64> {
        let mut times = Vec::new();
        loop {
            let now = transfer.due();
            times.push(ms(now) / 1000);
            match transfer.expire(now) {
                Step::Send(_) => assert!(transfer.due() > now),
                step => break assert_eq!(step, Step::GiveUp),
            }
        }
        times
    }

    #[test]
    fn a_silent_client_is_given_up() {
        assert_eq!(tries(&mut Transfer::new(NOTHING, 5000, at(0))), [1, 3, 7, 15]);
        let mut answered = Transfer::new(NOTHING, 5000, at(0));
        assert_eq!(acknowledge(&mut answered, 0, 1), [2]);
        assert_eq!(tries(&mut answered), [1, 3, 7, 15, 23, 31]);
        let options = Options { timeout: Some(3), ..NOTHING };
        assert_eq!(tries(&mut Transfer::new(options, 5000, at(0))), [3, 6, 9, 12]);
        // Progress counts as life, and nothing else does.
        let mut slow = Transfer::new(NOTHING, 5000, at(0));
        assert_eq!(acknowledge(&mut slow, 0, 1), [2]);
        assert_eq!(expire(&mut slow), [2]);
        assert_eq!(acknowledge(&mut slow, 2000, 1), NO_BLOCKS);
        assert_eq!(ms(slow.due()), 3000);
        assert_eq!(acknowledge(&mut slow, 2500, 2), [3]);
        assert_eq!(ms(slow.due()), 3500);
        assert_eq!(expire(&mut slow), [3]);
        assert_eq!(ms(slow.due()), 5500);
    }
}
