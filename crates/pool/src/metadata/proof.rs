//! What proves that a checkpoint or an entry is what its owner wrote: a digest, and signatures. Byte maps are those of
//! [`area`](super::area).

use seal::{DIGEST_BYTES, Digest, KeyPair, PublicKey, SIGNATURE_BYTES, Signature};

use super::area::{CRC, PROOF};
use crate::format::field::Field;

/// Bytes of a header's proof.
pub(super) const PROOF_BYTES: usize = SIGNATURE.end();
const KIND: Field = Field::first(1);
const TABLE_DIGEST: Field = KIND.then(7).then(DIGEST_BYTES);
const SIGNATURE: Field = TABLE_DIGEST.then(SIGNATURE_BYTES);
const KIND_DIGEST: u64 = 0x01;
const KIND_SIGNED: u64 = 0x03;

/// In which signatures of checkpoints and entries count.
const CONTEXT: &str = "etherpool metadata";
const ENTRY_CONTEXT: &str = "etherpool metadata entry";

/// What the digest of a table is by its header, and who signed that, as far as anybody did.
pub(super) type Proof = (Option<Digest>, Option<PublicKey>);

/// What the signature of a header covers.
fn said(header: &[u8]) -> Vec<u8> {
    let mut said = header.to_vec();
    CRC.of_mut(&mut said).fill(0);
    SIGNATURE.of_mut(PROOF.of_mut(&mut said)).fill(0);
    said
}

/// What that of an entry covers.
fn said_by_entry(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut said = [header, payload].concat();
    CRC.of_mut(&mut said).fill(0);
    said
}

/// Has a header that is complete but for its CRC prove its table, by these keys.
pub(super) fn put(header: &mut [u8], digest: &Digest, keys: Option<&KeyPair>) {
    let proof = PROOF.of_mut(header);
    KIND.put_number(proof, keys.map_or(KIND_DIGEST, |_| KIND_SIGNED));
    TABLE_DIGEST.of_mut(proof).copy_from_slice(&digest.0);
    if let Some(keys) = keys {
        let signature = keys.sign(CONTEXT, &said(header));
        SIGNATURE.of_mut(PROOF.of_mut(header)).copy_from_slice(&signature.0);
    }
}

/// What a header proves; `None` where that isn't right.
pub(super) fn of(header: &[u8]) -> Option<Proof> {
    let proof = PROOF.of(header);
    let digest = || TABLE_DIGEST.of(proof).try_into().ok().map(Digest);
    match KIND.number(proof) {
        0 => Some((None, None)),
        KIND_DIGEST => Some((Some(digest()?), None)),
        KIND_SIGNED => {
            let signature = Signature(SIGNATURE.of(proof).try_into().ok()?);
            Some((Some(digest()?), Some(signature.signer(CONTEXT, &said(header))?)))
        }
        _ => None,
    }
}

/// Signs an entry by its header and what it says.
pub(super) fn sign_entry(keys: &KeyPair, header: &[u8], payload: &[u8]) -> Signature {
    keys.sign(ENTRY_CONTEXT, &said_by_entry(header, payload))
}

/// Who signed an entry, if its signature is right.
pub(super) fn signer_of_entry(
    signature: Signature,
    header: &[u8],
    payload: &[u8],
) -> Option<PublicKey> {
    signature.signer(ENTRY_CONTEXT, &said_by_entry(header, payload))
}
