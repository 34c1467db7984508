//! The vote record: a pool's configuration, as one voter holds it.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "epVOTE\0\0" |
//! | 8 | 4 | CRC32C of the record, this field as zeros |
//! | 12 | 1 | slot, 0 or 1 |
//! | 13 | 1 | flags: 0x01 cleanly released, 0x02 witness, 0x04 names the voters, 0x08 the pool is to be destroyed, 0x10 with that: a majority has accepted it, 0x20 signed |
//! | 14 | 1 | number of voters; without the flag 0x04 current metadata copies: a bit per entry of the label's list of vote disks, who are the voters then |
//! | 15 | 1 | zero |
//! | 16 | 16 | pool |
//! | 32 | 16 | disk (or witness) that this record lies on |
//! | 48 | 16 | machine that a witness is bound to; zero for disks |
//! | 64 | 8 | epoch |
//! | 72 | 8 | configuration number |
//! | 80 | 16 | owner |
//! | 96 | 64 | owner's name, UTF-8, zero padded |
//! | 160 | 8 | last metadata record that was committed |
//! | 168 | 4 | number of disks that are out |
//! | 172 | 4 | zero |
//! | 176 | 12 each | disk number 4, configuration number since when 8 |
//! | … | | zero up to 14,616 |
//! | 14,616 | 32 each | public keys of those who may have signed the metadata, ascending, four at most ([`Signers`]) |
//! | … | | zero up to 14,744 |
//! | 14,744 | 2 | bytes of the grant; zero, as signature and grant are, where nobody signed |
//! | 14,746 | 1 | number of those who may have signed the metadata |
//! | 14,747 | 5 | zero |
//! | 14,752 | 96 | signature ([`seal::Signature`]) by a supervisor that the grant names, in the context `etherpool vote`, of the record with the CRC and this field as zeros |
//! | 14,848 | up to 1,136 | the grant ([`seal::Grant`]) |
//! | … | | zero up to 15,984 |
//! | 15,984 | 40 each | voters: id 16, zero 16 (for the machine of a witness), bits 1 (0x01 on the list that counts, 0x02 on the one that is to take its place, 0x04 has a current copy of the metadata), zero 7 |
//! | … | | zero up to 16 KiB |
//!
//! Without a voter that is to take a place there is one list. What lies on a disk that has no vote any more is
//! a record all the same: it names those that do.
//!
//! The flag 0x08 alone counts like any configuration: once a majority has it. With 0x10 one record of any disk proves
//! that a majority had it.
//!
//! Protects against: two owners, and a stale copy of metadata or log that is taken for a current one:
//! what is out, and which copies count, changes only by a record with a higher number on a majority
//! of votes. A record of another disk or pool, or in the other slot, isn't believed. Two slots: a torn
//! write leaves the former one. Metadata that ends before the record that a vote knows isn't adopted.
//!
//! The signature protects against who knows the pool's identity, which is no secret, and shows configurations of his
//! own making: it says by whose grant which supervisor wrote it. Whether that grant is the pool's is for whoever opens it.
//! A signature that isn't right makes the record none. Who may have signed the metadata protects against who holds a copy of
//! that and shows another one.

use std::collections::BTreeSet;
use std::rc::Rc;

use block::{Buffer, BufferMut, Epoch, OwnerId};
use seal::{GRANT_BYTES_MAX, Grant, KEY_BYTES, KeyPair, PublicKey, SIGNATURE_BYTES, Signature};
use uuid::Uuid;

use super::field::{Field, crc_without};
use super::signers::{SIGNERS_BYTES, SIGNERS_MAX, Signers};
use super::voters::{VOTE_DISKS_MAX, Voters};
use super::{ConfigNumber, DiskId, DiskNumber, PoolId, RecordNumber};

/// With what each record begins.
pub(crate) const VOTE_MAGIC: &[u8; 8] = b"epVOTE\0\0";
const FLAG_RELEASED: u64 = 0x01;
const FLAG_WITNESS: u64 = 0x02;
const FLAG_VOTERS: u64 = 0x04;
const FLAG_DESTROYED: u64 = 0x08;
const FLAG_DECIDED: u64 = 0x10;
const FLAG_SIGNED: u64 = 0x20;
const FLAGS_KNOWN: u64 =
    FLAG_RELEASED | FLAG_WITNESS | FLAG_VOTERS | FLAG_DESTROYED | FLAG_DECIDED | FLAG_SIGNED;

const MAGIC: Field = Field::first(8);
const CRC: Field = MAGIC.then(4);
const SLOT: Field = CRC.then(1);
const FLAGS: Field = SLOT.then(1);
const COUNT: Field = FLAGS.then(1);
const ZERO: Field = COUNT.then(1);
const POOL: Field = ZERO.then(16);
const DISK: Field = POOL.then(16);
const MACHINE: Field = DISK.then(16);
const EPOCH: Field = MACHINE.then(8);
const NUMBER: Field = EPOCH.then(8);
const OWNER: Field = NUMBER.then(16);
const OWNER_NAME: Field = OWNER.then(64);
const RECORD: Field = OWNER_NAME.then(8);
const OUT_COUNT: Field = RECORD.then(4);
const ZERO_TOO: Field = OUT_COUNT.then(4);
const OUT: Field = ZERO_TOO.then(OUT_DISKS_MAX * OUT_BYTES);
const ZERO_BETWEEN: Field = OUT.then(SIGNERS_AT - OUT.end());
const SIGNERS: Field = ZERO_BETWEEN.then(SIGNERS_BYTES);
const GRANT_BYTES: Field = SIGNERS.then(2);
const SIGNERS_COUNT: Field = GRANT_BYTES.then(1);
const SIGNATURE: Field = SIGNERS_COUNT.then(5).then(SIGNATURE_BYTES);
const GRANT: Field = SIGNATURE.then(GRANT_BYTES_MAX);
const VOTERS: Field = GRANT.then(VOTERS_MAX * VOTER_BYTES);

const OUT_DISK: Field = Field::first(4);
const OUT_SINCE: Field = OUT_DISK.then(8);
const OUT_BYTES: usize = OUT_SINCE.end();

const VOTER_ID: Field = Field::first(16);
const VOTER_MACHINE: Field = VOTER_ID.then(16);
const VOTER_BITS: Field = VOTER_MACHINE.then(1);
const VOTER_BYTES: usize = VOTER_BITS.then(7).end();
/// Two lists that have nobody in common.
const VOTERS_MAX: usize = 2 * VOTE_DISKS_MAX;
const VOTERS_AT: usize = VOTE_BYTES - VOTERS_MAX * VOTER_BYTES;
const SIGNED_AT: usize = VOTERS_AT - GRANT_BYTES_MAX - SIGNATURE_BYTES - 8;
const SIGNERS_AT: usize = SIGNED_AT - SIGNERS_BYTES;
const BIT_NOW: u64 = 0x01;
const BIT_NEXT: u64 = 0x02;
const BIT_COPY: u64 = 0x04;

/// Bytes in a slot.
pub const VOTE_BYTES: usize = 16 << 10;
/// Disks that can be out at once: as many as fit.
pub const OUT_DISKS_MAX: usize = (SIGNERS_AT - ZERO_TOO.end()) / OUT_BYTES;

const _: () = assert!(VOTERS.end() == VOTE_BYTES && VOTERS_AT == 15_984 && SIGNED_AT == 14_744);
const _: () = assert!(SIGNERS_AT == 14_616 && SIGNERS.end() == SIGNED_AT);
const _: () = assert!(ZERO_TOO.end() == 176 && OUT_BYTES == 12 && VOTER_BYTES == 40);

/// A disk that is out: nothing reaches it until it is taken in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutDisk {
    /// Which.
    pub disk: DiskNumber,
    /// The configuration that evicted it.
    pub since: ConfigNumber,
}

/// Whether the pool is to be no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destruction {
    /// It stays.
    #[default]
    None,
    /// It is destroyed if a majority of votes has this.
    Asked,
    /// It is destroyed: a majority had the former.
    Decided,
}

/// What a majority of votes agrees on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Counts up with each configuration.
    pub number: ConfigNumber,
    /// Who owns the pool.
    pub owner: OwnerId,
    /// Its name, for people; cut at 64 bytes.
    pub owner_name: String,
    /// Whether the owner gave the pool up: nobody need wait for its lease.
    pub released: bool,
    /// Whether the pool is to be no more.
    pub destruction: Destruction,
    /// Who votes.
    pub voters: Voters,
    /// The voters whose metadata copies hold everything that is committed.
    pub copies: BTreeSet<DiskId>,
    /// The last metadata record that was committed by then.
    pub record: RecordNumber,
    /// The disks that are out, ascending.
    pub out: Vec<OutDisk>,
    /// Who may have signed the metadata of the current copies.
    pub metadata_by: Signers,
}

impl Configuration {
    /// Newer configurations are greater.
    pub fn rank(&self) -> (Epoch, ConfigNumber) {
        (self.epoch, self.number)
    }

    /// Since when a disk is out, if it is.
    pub fn out_entry(&self, disk: DiskNumber) -> Option<OutDisk> {
        self.out.iter().find(|out| out.disk == disk).copied()
    }

    /// Whether a disk is out.
    pub fn is_out(&self, disk: DiskNumber) -> bool {
        self.out.iter().any(|out| out.disk == disk)
    }
}

/// A voter that holds no data: a small file, bound to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The id of the machine that it is bound to; elsewhere it counts nothing.
    pub machine: Uuid,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VotePlace {
    /// The pool.
    pub pool: PoolId,
    /// The disk, or the witness's own id.
    pub disk: DiskId,
    /// Set for witnesses.
    pub witness: Option<Witness>,
}

/// By whose word a configuration is that of its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The grant that names him. Its own signature is right.
    pub grant: Rc<Grant>,
    /// The supervisor that signed.
    pub by: PublicKey,
}

impl Signed {
    /// Whether it counts where this is the last grant of the pool that is known. What those who are still let in said under
    /// a former one stays true.
    pub(crate) fn counts_under(&self, last: &Grant) -> bool {
        let Signed { grant, by } = self;
        if grant.version() >= last.version() {
            return grant.leads_from(last.key());
        }
        last.names(by) && (last.leads_from(grant.key()) || grant.leads_from(last.key()))
    }
}

/// A supervisor as one that signs configurations of a pool.
#[derive(Clone, Debug)]
pub struct Signer {
    keys: KeyPair,
    grant: Rc<Grant>,
}

impl Signer {
    /// The grant that names it.
    pub fn grant(&self) -> &Rc<Grant> {
        &self.grant
    }

    /// One that a grant names; of others nobody would believe a signature.
    pub fn new(keys: Option<&KeyPair>, grant: Option<&Rc<Grant>>) -> Option<Signer> {
        let (keys, grant) = keys.zip(grant)?;
        let is_named = grant.names(&keys.public());
        is_named.then(|| Signer { keys: keys.clone(), grant: Rc::clone(grant) })
    }
}

/// In which a signature counts for a vote.
const CONTEXT: &str = "etherpool vote";

/// What a signature covers of a record.
fn said(record: &[u8]) -> Vec<u8> {
    let mut said = record.to_vec();
    CRC.of_mut(&mut said).fill(0);
    SIGNATURE.of_mut(&mut said).fill(0);
    said
}

/// More disks are out than a vote record can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} disks are out, a vote record holds {OUT_DISKS_MAX}")]
pub struct TooManyOut {
    /// How many are out.
    pub count: usize,
}

impl Configuration {
    /// The record for a slot (0 or 1) of a voter.
    pub fn encode(
        &self,
        place: &VotePlace,
        slot: usize,
        signer: Option<&Signer>,
    ) -> Result<Buffer, TooManyOut> {
        if self.out.len() > OUT_DISKS_MAX {
            return Err(TooManyOut { count: self.out.len() });
        }
        let mut record = BufferMut::zeroed(VOTE_BYTES);
        MAGIC.of_mut(&mut record).copy_from_slice(VOTE_MAGIC);
        SLOT.put_number(&mut record, slot as u64 % 2);
        let released = if self.released { FLAG_RELEASED } else { 0 };
        let witness = if place.witness.is_some() { FLAG_WITNESS } else { 0 };
        let destruction = match self.destruction {
            Destruction::None => 0,
            Destruction::Asked => FLAG_DESTROYED,
            Destruction::Decided => FLAG_DESTROYED | FLAG_DECIDED,
        };
        let signed = if signer.is_some() { FLAG_SIGNED } else { 0 };
        FLAGS.put_number(&mut record, released | witness | destruction | signed | FLAG_VOTERS);
        let voters = self.voters.all();
        COUNT.put_number(&mut record, voters.len().min(VOTERS_MAX) as u64);
        let entries = VOTERS.of_mut(&mut record).chunks_exact_mut(VOTER_BYTES);
        for (entry, disk) in entries.zip(&voters) {
            let next = self.voters.next.as_ref().is_some_and(|next| next.contains(disk));
            let bits = [
                (self.voters.now.contains(disk), BIT_NOW),
                (next, BIT_NEXT),
                (self.copies.contains(disk), BIT_COPY),
            ];
            let bits = bits.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit);
            VOTER_ID.put_uuid(entry, disk.0);
            VOTER_BITS.put_number(entry, bits);
        }
        POOL.put_uuid(&mut record, place.pool.0);
        DISK.put_uuid(&mut record, place.disk.0);
        MACHINE.put_uuid(&mut record, place.witness.map_or(Uuid::nil(), |witness| witness.machine));
        EPOCH.put_number(&mut record, self.epoch.0);
        NUMBER.put_number(&mut record, self.number.0);
        OWNER.put_uuid(&mut record, self.owner.0);
        OWNER_NAME.put_text(&mut record, &self.owner_name);
        RECORD.put_number(&mut record, self.record.0);
        OUT_COUNT.put_number(&mut record, self.out.len() as u64);
        let entries = OUT.of_mut(&mut record).chunks_exact_mut(OUT_BYTES);
        for (entry, out) in entries.zip(&self.out) {
            OUT_DISK.put_number(entry, u64::from(out.disk.0));
            OUT_SINCE.put_number(entry, out.since.0);
        }
        SIGNERS_COUNT.put_number(&mut record, self.metadata_by.len() as u64);
        let entries = SIGNERS.of_mut(&mut record).chunks_exact_mut(KEY_BYTES);
        for (entry, key) in entries.zip(self.metadata_by.iter()) {
            entry.copy_from_slice(&key.0);
        }
        if let Some(Signer { keys, grant }) = signer {
            let grant = grant.bytes();
            GRANT_BYTES.put_number(&mut record, grant.len() as u64);
            GRANT.of_mut(&mut record)[..grant.len()].copy_from_slice(grant);
            let signature = keys.sign(CONTEXT, &said(&record));
            SIGNATURE.of_mut(&mut record).copy_from_slice(&signature.0);
        }
        let crc = crc_without(&record, CRC);
        CRC.put_number(&mut record, u64::from(crc));
        Ok(record.freeze())
    }

    fn decode(
        bytes: &[u8],
        place: &VotePlace,
        slot: usize,
        labelled: &[DiskId],
    ) -> Option<(Configuration, Option<Signed>)> {
        let flags = FLAGS.number(bytes);
        let machine = place.witness.map_or(Uuid::nil(), |witness| witness.machine);
        let sound = bytes.len() == VOTE_BYTES
            && MAGIC.of(bytes) == VOTE_MAGIC
            && CRC.number32(bytes) == crc_without(bytes, CRC)
            && SLOT.number(bytes) == slot as u64
            && flags & !FLAGS_KNOWN == 0
            && (flags & FLAG_WITNESS != 0) == place.witness.is_some()
            && MACHINE.uuid(bytes) == machine
            && POOL.uuid(bytes) == place.pool.0
            && DISK.uuid(bytes) == place.disk.0;
        let destruction = match flags & (FLAG_DESTROYED | FLAG_DECIDED) {
            0 => Destruction::None,
            FLAG_DESTROYED => Destruction::Asked,
            FLAG_DECIDED => return None,
            _ => Destruction::Decided,
        };
        let count = OUT_COUNT.number(bytes) as usize;
        if !sound || count > OUT_DISKS_MAX {
            return None;
        }
        let out = OUT.of(bytes).chunks_exact(OUT_BYTES).take(count).map(|entry| OutDisk {
            disk: DiskNumber(OUT_DISK.number32(entry)),
            since: ConfigNumber(OUT_SINCE.number(entry)),
        });
        let (voters, copies) = match flags & FLAG_VOTERS {
            0 => {
                let set = COUNT.number(bytes);
                let has = |(index, _): &(usize, &DiskId)| set & 1 << index != 0;
                let copies = labelled.iter().take(8).enumerate().filter(has);
                (Voters::of(labelled.to_vec()), copies.map(|(_, disk)| *disk).collect())
            }
            _ => decode_voters(bytes)?,
        };
        let signers = SIGNERS_COUNT.number(bytes) as usize;
        if signers > SIGNERS_MAX {
            return None;
        }
        let signers = SIGNERS.of(bytes).chunks_exact(KEY_BYTES).take(signers);
        let signers = signers.filter_map(|key| Some(PublicKey(key.try_into().ok()?)));
        let signed = match flags & FLAG_SIGNED {
            0 => None,
            _ => Some(decode_signed(bytes)?),
        };
        let configuration = Configuration {
            epoch: Epoch(EPOCH.number(bytes)),
            number: ConfigNumber(NUMBER.number(bytes)),
            owner: OwnerId(OWNER.uuid(bytes)),
            owner_name: OWNER_NAME.text(bytes)?,
            released: flags & FLAG_RELEASED != 0,
            destruction,
            voters,
            copies,
            record: RecordNumber(RECORD.number(bytes)),
            out: out.collect(),
            metadata_by: Signers::of(signers),
        };
        Some((configuration, signed))
    }
}

/// Who signed a record, if that is right.
fn decode_signed(bytes: &[u8]) -> Option<Signed> {
    let grant = GRANT.of(bytes).get(..GRANT_BYTES.number(bytes) as usize)?;
    let grant = Rc::new(Grant::parse(grant)?);
    let signature = Signature(SIGNATURE.of(bytes).try_into().ok()?);
    let by = signature.signer(CONTEXT, &said(bytes))?;
    grant.names(&by).then_some(Signed { grant, by })
}

/// Who votes, and who of them has a current copy of the metadata.
fn decode_voters(bytes: &[u8]) -> Option<(Voters, BTreeSet<DiskId>)> {
    let count = COUNT.number(bytes) as usize;
    let entries = VOTERS.of(bytes).chunks_exact(VOTER_BYTES).take(count).map(|entry| {
        let bits = VOTER_BITS.number(entry);
        (bits & (BIT_NOW | BIT_NEXT) != 0).then_some((DiskId(VOTER_ID.uuid(entry)), bits))
    });
    let entries: Vec<(DiskId, u64)> = entries.collect::<Option<_>>()?;
    let with = |bit: u64| -> Vec<DiskId> {
        entries.iter().filter(|(_, bits)| bits & bit != 0).map(|(disk, _)| *disk).collect()
    };
    let (now, next) = (with(BIT_NOW), with(BIT_NEXT));
    let fits = |list: &[DiskId]| list.len() <= VOTE_DISKS_MAX;
    let sound = count <= VOTERS_MAX && !now.is_empty() && fits(&now) && fits(&next);
    let voters = Voters { now, next: Some(next).filter(|next| !next.is_empty()) };
    sound.then(|| (voters, with(BIT_COPY).into_iter().collect()))
}

/// What a voter's two slots hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteSlots {
    /// The newest valid record.
    pub newest: Option<Configuration>,
    /// By whose word, if that is signed.
    pub signed: Option<Signed>,
    /// The slot to write next: the one that doesn't hold the newest.
    pub next_slot: usize,
    /// Slots that can't be read, or hold something else than a record or zeros.
    pub damaged: [bool; 2],
}

impl VoteSlots {
    /// The slot of the newest valid record.
    pub fn newest_slot(&self) -> Option<usize> {
        self.newest.as_ref().map(|_| 1 - self.next_slot)
    }
}

/// Selects the newest valid record of a voter. `None` is a slot that couldn't be read. `labelled` are the voters
/// that the disk's label names: a record from before votes could move doesn't name them.
pub fn select_vote(place: &VotePlace, slots: [Option<&[u8]>; 2], labelled: &[DiskId]) -> VoteSlots {
    let [first, second] = slots;
    let is_blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let [blank_first, blank_second] = slots.map(|bytes| bytes.is_some_and(is_blank));
    let first = first.and_then(|bytes| Configuration::decode(bytes, place, 0, labelled));
    let second = second.and_then(|bytes| Configuration::decode(bytes, place, 1, labelled));
    let damaged = [first.is_none() && !blank_first, second.is_none() && !blank_second];
    let rank = |found: &Option<(Configuration, _)>| found.as_ref().map(|(newest, _)| newest.rank());
    let (newest, next_slot) = match rank(&second) > rank(&first) {
        true => (second, 0),
        false => {
            let next_slot = usize::from(first.is_some());
            (first, next_slot)
        }
    };
    let (newest, signed) = newest.unzip();
    VoteSlots { newest, signed: signed.flatten(), next_slot, damaged }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use seal::{PoolKeyPair, SecretKey};

    use super::*;

    fn place() -> VotePlace {
        let pool = PoolId(Uuid::from_u128(0x11));
        VotePlace { pool, disk: DiskId(Uuid::from_u128(0x22)), witness: None }
    }

    fn disks(numbers: std::ops::Range<u128>) -> Vec<DiskId> {
        numbers.map(|number| DiskId(Uuid::from_u128(number))).collect()
    }

    fn configuration(epoch: u64, number: u64) -> Configuration {
        let out = OutDisk { disk: DiskNumber(3), since: ConfigNumber(number) };
        Configuration {
            epoch: Epoch(epoch),
            number: ConfigNumber(number),
            owner: OwnerId(Uuid::from_u128(0x33)),
            owner_name: "attic".into(),
            released: true,
            destruction: Destruction::None,
            voters: Voters { now: disks(1..4), next: Some(disks(2..5)) },
            copies: [1, 3].map(|number| DiskId(Uuid::from_u128(number))).into(),
            record: RecordNumber(900),
            out: vec![out, OutDisk { disk: DiskNumber(5), ..out }],
            metadata_by: Signers::of([PublicKey([0x66; KEY_BYTES]), PublicKey([0x77; KEY_BYTES])]),
        }
    }

    #[test]
    fn a_pool_is_destroyed_by_nothing_but_its_own_flags() {
        let place = place();
        for destruction in [Destruction::None, Destruction::Asked, Destruction::Decided] {
            // Also where nobody has the metadata.
            let copies = BTreeSet::new();
            let written = Configuration { destruction, copies, ..configuration(4, 9) };
            let record = written.encode(&place, 0, None).unwrap();
            let found = select_vote(&place, [Some(&record), Some(&[0; VOTE_BYTES])], &[]);
            assert_eq!(found.newest, Some(written));
        }
        // Nobody writes the second flag without the first.
        let mut record = configuration(4, 9).encode(&place, 0, None).unwrap().to_vec();
        FLAGS.put_number(&mut record, FLAG_DECIDED | FLAG_VOTERS);
        let crc = crc_without(&record, CRC);
        CRC.put_number(&mut record, u64::from(crc));
        let found = select_vote(&place, [Some(&record), Some(&[0; VOTE_BYTES])], &[]);
        assert_eq!((found.newest, found.damaged), (None, [true, false]));
    }

    #[test]
    fn the_newest_by_epoch_then_number_wins() {
        let place = place();
        let (a, b) = (configuration(4, 9), configuration(5, 2));
        let slots = [a.encode(&place, 0, None).unwrap(), b.encode(&place, 1, None).unwrap()];
        let found = select_vote(&place, [Some(&slots[0]), Some(&slots[1])], &[]);
        assert_eq!(
            found,
            VoteSlots { newest: Some(b), signed: None, next_slot: 0, damaged: [false; 2] }
        );
        let found = select_vote(&place, [Some(&slots[0]), None], &[]);
        assert_eq!(
            found,
            VoteSlots { newest: Some(a), signed: None, next_slot: 1, damaged: [false, true] }
        );
        let found = select_vote(&place, [Some(&[0; VOTE_BYTES]), None], &[]);
        assert_eq!(
            found,
            VoteSlots { newest: None, signed: None, next_slot: 0, damaged: [false, true] }
        );
        // A label where a vote should be.
        let found = select_vote(&place, [Some(&[7; VOTE_BYTES]), Some(&[0; VOTE_BYTES])], &[]);
        assert_eq!(found.damaged, [true, false]);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let place = place();
        let bytes = configuration(4, 9).encode(&place, 0, None).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            assert_eq!(select_vote(&place, [Some(&damaged), None], &[]).newest, None, "byte {at}");
        }
        assert_eq!(select_vote(&place, [Some(&bytes[..9000]), None], &[]).newest, None);
    }

    fn keys(number: u8) -> KeyPair {
        KeyPair::of(SecretKey::new([number; 32])).unwrap()
    }

    fn grant(pool: u8, supervisors: &[u8]) -> Rc<Grant> {
        let supervisors: Vec<PublicKey> = supervisors.iter().map(|of| keys(*of).public()).collect();
        let pool = PoolKeyPair::of(SecretKey::new([pool; 32])).unwrap();
        Rc::new(pool.found(&supervisors).unwrap())
    }

    #[test]
    fn a_signed_record_says_by_whose_word_it_is() {
        let (place, written) = (place(), configuration(4, 9));
        let granted = grant(9, &[1, 2, 3, 4, 5, 6, 7, 8]);
        for number in 1..=8 {
            let signer = Signer::new(Some(&keys(number)), Some(&granted)).unwrap();
            let bytes = written.encode(&place, 1, Some(&signer)).unwrap();
            let found = select_vote(&place, [None, Some(&bytes)], &[]);
            assert_eq!(found.newest.as_ref(), Some(&written));
            let signed = Signed { grant: Rc::clone(&granted), by: keys(number).public() };
            assert_eq!(found.signed, Some(signed));
        }
        assert!(Signer::new(Some(&keys(9)), Some(&granted)).is_none(), "it isn't named");
        assert!(Signer::new(None, Some(&granted)).is_none());
        assert!(Signer::new(Some(&keys(1)), None).is_none());
    }

    /// Whoever writes a record makes the checksum right.
    fn forged(record: &Buffer, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = record.to_vec();
        change(&mut bytes);
        let crc = crc_without(&bytes, CRC);
        CRC.put_number(&mut bytes, u64::from(crc));
        bytes
    }

    #[test]
    fn nothing_of_a_signed_record_can_be_changed() {
        let place = place();
        let signer = Signer::new(Some(&keys(1)), Some(&grant(9, &[1, 2]))).unwrap();
        let written = configuration(4, 9);
        let bytes = written.encode(&place, 0, Some(&signer)).unwrap();
        let shown = |bytes: &[u8]| select_vote(&place, [Some(bytes), None], &[]);
        // But for its CRC and flags.
        let all = (0..8).chain([12]).chain(14..300).chain((300..SIGNED_AT).step_by(97));
        for at in all.chain((SIGNED_AT..VOTE_BYTES).step_by(3)) {
            let changed = shown(&forged(&bytes, |bytes| bytes[at] ^= 0x40));
            assert!(changed.newest.is_none(), "byte {at}: {changed:?}");
        }
        // Without the flag it is a record that nobody signed.
        let bare = forged(&bytes, |bytes| FLAGS.put_number(bytes, FLAG_VOTERS | FLAG_RELEASED));
        assert_eq!((shown(&bare).newest, shown(&bare).signed), (Some(written.clone()), None));
        let other = configuration(5, 1).encode(&place, 0, Some(&signer)).unwrap();
        let mixed = forged(&bytes, |bytes| {
            SIGNATURE.of_mut(bytes).copy_from_slice(SIGNATURE.of(&other));
        });
        assert_eq!(shown(&mixed).newest, None);
        // By somebody whom the grant doesn't name.
        let stranger = Signer { keys: keys(3), grant: grant(9, &[1, 2]) };
        let strange = written.encode(&place, 0, Some(&stranger)).unwrap();
        assert_eq!(shown(&strange).newest, None);
    }

    #[test]
    fn another_place_is_refused() {
        let place = place();
        let bytes = configuration(4, 9).encode(&place, 0, None).unwrap();
        assert_eq!(select_vote(&place, [None, Some(&bytes)], &[]).newest, None);
        let other = VotePlace { disk: DiskId(Uuid::from_u128(0x23)), ..place };
        assert_eq!(select_vote(&other, [Some(&bytes), None], &[]).newest, None);
        let other = VotePlace { pool: PoolId(Uuid::from_u128(0x12)), ..place };
        assert_eq!(select_vote(&other, [Some(&bytes), None], &[]).newest, None);
        let witness = Some(Witness { machine: Uuid::from_u128(0x44) });
        let other = VotePlace { witness, ..place };
        assert_eq!(select_vote(&other, [Some(&bytes), None], &[]).newest, None);
    }

    #[test]
    fn a_witness_counts_on_its_machine_only() {
        let place =
            VotePlace { witness: Some(Witness { machine: Uuid::from_u128(0x44) }), ..place() };
        let bytes = configuration(4, 9).encode(&place, 1, None).unwrap();
        assert!(select_vote(&place, [None, Some(&bytes)], &[]).newest.is_some());
        let moved =
            VotePlace { witness: Some(Witness { machine: Uuid::from_u128(0x45) }), ..place };
        assert_eq!(select_vote(&moved, [None, Some(&bytes)], &[]).newest, None);
    }

    #[test]
    fn more_disks_out_than_fit_are_an_error() {
        let mut configuration = configuration(4, 9);
        configuration.out = (0..OUT_DISKS_MAX as u32)
            .map(|disk| OutDisk { disk: DiskNumber(disk), since: ConfigNumber(u64::MAX) })
            .collect();
        let bytes = configuration.encode(&place(), 0, None).unwrap();
        assert_eq!(
            select_vote(&place(), [Some(&bytes), None], &[]).newest,
            Some(configuration.clone())
        );
        configuration.out.push(configuration.out[0]);
        let count = OUT_DISKS_MAX + 1;
        assert_eq!(configuration.encode(&place(), 0, None), Err(TooManyOut { count }));
    }

    #[test]
    fn golden_bytes() {
        let bytes = configuration(4, 9).encode(&place(), 1, None).unwrap();
        assert_eq!(&bytes[..8], b"epVOTE\0\0");
        assert_eq!(&bytes[12..16], &[1, 5, 4, 0]);
        let voters = bytes[15_984..].chunks_exact(40);
        let voters: Vec<_> = voters.map(|voter| (voter[15], voter[32])).collect();
        assert_eq!(voters[..5], [(1, 5), (2, 3), (3, 7), (4, 2), (0, 0)]);
        assert_eq!((bytes[31], bytes[47], bytes[63]), (0x11, 0x22, 0));
        assert_eq!(&bytes[64..80], &[4, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[95], 0x33);
        assert_eq!(&bytes[96..102], b"attic\0");
        assert_eq!(&bytes[160..176], &[0x84, 3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[176..192], &[3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
    }

    /// As records were before votes could move: their voters are those of the label.
    #[test]
    fn a_record_without_voters_has_those_of_the_label() {
        let mut bytes = configuration(4, 9).encode(&place(), 0, None).unwrap().to_vec();
        bytes[13] = 1;
        bytes[14] = 0b101;
        bytes[15_984..].fill(0);
        let crc = crc_without(&bytes, CRC);
        CRC.put_number(&mut bytes, u64::from(crc));
        let newest = select_vote(&place(), [Some(&bytes), None], &disks(6..9)).newest;
        let voters = Voters::of(disks(6..9));
        let copies = [6, 8].map(|number| DiskId(Uuid::from_u128(number))).into();
        assert_eq!(newest, Some(Configuration { voters, copies, ..configuration(4, 9) }));
    }

    #[test]
    fn voters_on_no_list_or_too_many_are_no_record() {
        let damaged = |at: usize, value: u8| {
            let mut bytes = configuration(4, 9).encode(&place(), 0, None).unwrap().to_vec();
            bytes[at] = value;
            let crc = crc_without(&bytes, CRC);
            CRC.put_number(&mut bytes, u64::from(crc));
            select_vote(&place(), [Some(&bytes), None], &[]).newest
        };
        assert!(damaged(14, 3).is_some());
        assert_eq!((damaged(14, 0), damaged(14, 11), damaged(14, 5)), (None, None, None));
        assert_eq!(damaged(15_984 + 32, 4), None);
    }
}
