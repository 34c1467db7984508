//! That a node's slots are its own: signed by the key by which it was accepted. **Nobody else's are kept for it**: he would
//! fill its shelf with disks that there aren't, or have them take each other's places at the next boot.

use boot::node::{Hello, Slots, signed_slots};
use seal::{KeyPair, PublicKey, Signature};

/// For what the signature counts.
const CONTEXT: &str = "etherpool slots of a node";

/// The signature for a hello with these slots.
pub fn sign_slots(key: &KeyPair, slots: &Slots) -> String {
    key.sign(CONTEXT, &signed_slots(slots)).to_string()
}

/// Whose the slots of a hello are, if somebody stands for them.
pub fn slots_signer(hello: &Hello) -> Option<PublicKey> {
    let signature: Signature = hello.slots_signature.as_ref()?.parse().ok()?;
    signature.signer(CONTEXT, &signed_slots(&hello.slots))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use boot::node::{Phase, VERSION};
    use seal::SecretKey;

    use super::*;

    #[test]
    fn slots_are_whose_key_signed_them_and_no_others() {
        let key = KeyPair::of(SecretKey::new([7; 32])).unwrap();
        let slots = Slots::from([("a".into(), 0), ("b".into(), 1)]);
        let hello = |slots: Slots, slots_signature| Hello {
            version: VERSION,
            uuid: None,
            macs: Vec::new(),
            hostname: None,
            program_version: "1".into(),
            kernel: "6".into(),
            phase: Phase::Serving,
            message: None,
            disks: Vec::new(),
            slots,
            slots_signature,
            identity: None,
        };
        let signature = Some(sign_slots(&key, &slots));
        let said = hello(slots.clone(), signature.clone());
        assert_eq!(slots_signer(&said), Some(key.public()));
        let read = Hello::parse(&serde_json::to_vec(&said).unwrap()).unwrap();
        assert_eq!(slots_signer(&read), Some(key.public()));
        let swapped = Slots::from([("a".into(), 1), ("b".into(), 0)]);
        for (slots, signature) in
            [(swapped, signature), (slots.clone(), None), (slots, Some("x".into()))]
        {
            assert_ne!(slots_signer(&hello(slots, signature)), Some(key.public()));
        }
    }
}
