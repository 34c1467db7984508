//! What a node has its TPM do: seal the secret half of its key, so that what the boot server keeps of it is of use to this
//! TPM alone, and unseal it. How commands and answers look is tpm2-protocol's; how they get there is the caller's.
//!
//! The key that seals is a primary key of the owner's hierarchy: the TPM makes the same one at any time of its own seed and
//! this template, so nothing has to be kept in it. Another TPM has another seed, and so has this one once it was cleared.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tpm2_protocol::basic::{TpmHandle, TpmUint16};
use tpm2_protocol::constant::TPM_MAX_COMMAND_SIZE;
use tpm2_protocol::data::{
    Tpm2bPrivate, Tpm2bPublic, Tpm2bSensitiveCreate, Tpm2bSensitiveData, TpmAlgId, TpmEccCurve,
    TpmRc, TpmRcBase, TpmRh, TpmSt, TpmaObject, TpmsAuthCommand, TpmsEccParms, TpmsEccPoint,
    TpmsKeyedhashParms, TpmsSensitiveCreate, TpmtKeyedhashScheme, TpmtPublic, TpmtSymDef,
    TpmuKeyedhashScheme, TpmuPublicId, TpmuPublicParms, TpmuSymKeyBits, TpmuSymMode,
};
use tpm2_protocol::frame::{
    TpmCreateCommand, TpmCreatePrimaryCommand, TpmCreatePrimaryResponse, TpmCreateResponse,
    TpmFlushContextCommand, TpmFlushContextResponse, TpmFrame, TpmLoadCommand, TpmLoadResponse,
    TpmResponse, TpmUnmarshalBody, TpmUnsealCommand, TpmUnsealResponse, tpm_marshal_command,
};
use tpm2_protocol::{TpmError, TpmMarshal, TpmUnmarshal, TpmWriter};
use zeroize::Zeroizing;

use crate::node::Kept;

/// Bytes of a command or answer, at most.
pub const BYTES_MAX: usize = TPM_MAX_COMMAND_SIZE;
/// Bytes that are sealed, at most: no TPM has to take more (`MAX_SYM_DATA`).
const SECRET_BYTES_MAX: usize = 128;
/// With what the TPM of former machines begins its answers, and a later one that to a command of theirs.
const FORMER_ANSWER: [u8; 2] = [0x00, 0xc4];

/// A secret as its TPM gives it out: to who brings it back.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    public: Tpm2bPublic,
    private: Tpm2bPrivate,
}

/// Why a TPM doesn't seal or unseal something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It takes no command, or says nothing.
    #[error("the TPM doesn't answer: {0}")]
    Unheard(#[from] io::Error),
    /// One that knows none of this.
    #[error("the TPM is of version 1.2")]
    Former,
    /// An answer that is none.
    #[error("what the TPM answers to {0} isn't understood: {1:?}")]
    Answer(&'static str, TpmError),
    /// It says no.
    #[error("the TPM refuses {0}: {1}")]
    Refused(&'static str, TpmRc),
    /// Sealed by another TPM, or by this one before it was cleared.
    #[error("the key was sealed to another TPM, or this TPM has been cleared since")]
    Foreign,
    /// It wasn't sealed by any.
    #[error("what was kept of the key isn't what a TPM gives out")]
    Kept,
    /// A secret that is too long to be sealed.
    #[error("more than {SECRET_BYTES_MAX} bytes can't be sealed")]
    Long,
}

impl Sealed {
    /// As the boot server keeps it.
    pub fn to_kept(&self) -> Result<Kept, Error> {
        Ok(Kept::Tpm { public: to_text(&self.public)?, private: to_text(&self.private)? })
    }

    /// As it was kept: both parts of it.
    pub fn parse(public: &str, private: &str) -> Result<Sealed, Error> {
        Ok(Sealed { public: parse(public)?, private: parse(private)? })
    }
}

fn to_text(part: &impl TpmMarshal) -> Result<String, Error> {
    let mut bytes = [0; BYTES_MAX];
    let mut writer = TpmWriter::new(&mut bytes);
    part.marshal(&mut writer).map_err(|_| Error::Kept)?;
    Ok(STANDARD.encode(writer.as_bytes()))
}

fn parse<T: TpmUnmarshal>(text: &str) -> Result<T, Error> {
    let bytes = STANDARD.decode(text).map_err(|_| Error::Kept)?;
    match T::unmarshal(&bytes) {
        Ok((part, [])) => Ok(part),
        _ => Err(Error::Kept),
    }
}

/// A TPM: takes a command, and says what it answers.
pub trait Ask: FnMut(&[u8]) -> io::Result<Zeroizing<Vec<u8>>> {}

impl<F: FnMut(&[u8]) -> io::Result<Zeroizing<Vec<u8>>>> Ask for F {}

/// Has a secret sealed. There is no policy: whoever has the TPM at his command may have it unsealed.
pub fn seal(ask: &mut impl Ask, secret: &[u8]) -> Result<Sealed, Error> {
    let data = Some(secret).filter(|secret| secret.len() <= SECRET_BYTES_MAX).ok_or(Error::Long)?;
    let data = Tpm2bSensitiveData::try_from(data).map_err(|_| Error::Long)?;
    with_primary(ask, |ask, parent| {
        let sensitive = TpmsSensitiveCreate { data, ..TpmsSensitiveCreate::default() };
        let command = TpmCreateCommand {
            handles: [parent],
            in_sensitive: Tpm2bSensitiveCreate { inner: sensitive },
            in_public: Tpm2bPublic { inner: sealed_object() },
            outside_info: Default::default(),
            creation_pcr: Default::default(),
        };
        let made: TpmCreateResponse = say(ask, "TPM2_Create", &command, true)?;
        Ok(Sealed { public: made.out_public, private: made.out_private })
    })
}

/// Has it unsealed by the TPM that sealed it.
pub fn unseal(ask: &mut impl Ask, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
    with_primary(ask, |ask, parent| {
        let command = TpmLoadCommand {
            handles: [parent],
            in_private: sealed.private,
            in_public: sealed.public.clone(),
        };
        let loaded: TpmLoadResponse =
            say(ask, "TPM2_Load", &command, true).map_err(|error| match error {
                Error::Refused(_, code) if code.base() == TpmRcBase::Integrity => Error::Foreign,
                error => error,
            })?;
        let [object] = loaded.handles;
        let command = TpmUnsealCommand { handles: [object] };
        let unsealed = say::<TpmUnsealResponse>(ask, "TPM2_Unseal", &command, true);
        flush(ask, object);
        Ok(Zeroizing::new(unsealed?.out_data.to_vec()))
    })
}

/// Does something with the key that seals, which is in the TPM's memory for as long.
fn with_primary<A: Ask, T>(
    ask: &mut A,
    work: impl FnOnce(&mut A, TpmHandle) -> Result<T, Error>,
) -> Result<T, Error> {
    let command = TpmCreatePrimaryCommand {
        handles: [TpmHandle::new(TpmRh::Owner.value())],
        in_public: Tpm2bPublic { inner: primary_key() },
        ..TpmCreatePrimaryCommand::default()
    };
    let made: TpmCreatePrimaryResponse = say(ask, "TPM2_CreatePrimary", &command, true)?;
    let [parent] = made.handles;
    let done = work(ask, parent);
    flush(ask, parent);
    done
}

/// There is room for three. The kernel does this, too, for who asks it by `tpmrm0`.
fn flush(ask: &mut impl Ask, flush_handle: TpmHandle) {
    let command = TpmFlushContextCommand { handles: [], flush_handle };
    // What stays there is gone when the machine is switched off.
    let _ = say::<TpmFlushContextResponse>(ask, "TPM2_FlushContext", &command, false);
}

/// A storage key as TPMs of PCs all can make it (TCG's template for a storage root key on NIST P-256). It isn't changed: with
/// another one nothing is unsealed any more.
fn primary_key() -> TpmtPublic {
    TpmtPublic {
        object_type: TpmAlgId::Ecc,
        name_alg: TpmAlgId::Sha256,
        object_attributes: TpmaObject::FIXED_TPM
            | TpmaObject::FIXED_PARENT
            | TpmaObject::SENSITIVE_DATA_ORIGIN
            | TpmaObject::USER_WITH_AUTH
            | TpmaObject::NO_DA
            | TpmaObject::RESTRICTED
            | TpmaObject::DECRYPT,
        parameters: TpmuPublicParms::Ecc(TpmsEccParms {
            symmetric: TpmtSymDef {
                algorithm: TpmAlgId::Aes,
                key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(128)),
                mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
            },
            curve_id: TpmEccCurve::NistP256,
            ..TpmsEccParms::default()
        }),
        unique: TpmuPublicId::Ecc(TpmsEccPoint::default()),
        ..TpmtPublic::default()
    }
}

/// Data that is of use in this TPM, below that key, and without a password.
fn sealed_object() -> TpmtPublic {
    let scheme = TpmtKeyedhashScheme { scheme: TpmAlgId::Null, details: TpmuKeyedhashScheme::Null };
    TpmtPublic {
        object_type: TpmAlgId::KeyedHash,
        name_alg: TpmAlgId::Sha256,
        object_attributes: TpmaObject::FIXED_TPM
            | TpmaObject::FIXED_PARENT
            | TpmaObject::USER_WITH_AUTH
            | TpmaObject::NO_DA,
        parameters: TpmuPublicParms::KeyedHash(TpmsKeyedhashParms { scheme }),
        unique: TpmuPublicId::KeyedHash(Default::default()),
        ..TpmtPublic::default()
    }
}

/// Gives a command, and reads the answer to it.
fn say<R: TpmUnmarshalBody>(
    ask: &mut impl Ask,
    name: &'static str,
    command: &impl TpmFrame,
    is_authorized: bool,
) -> Result<R, Error> {
    let bytes = bytes_of(command, is_authorized).map_err(|error| Error::Answer(name, error))?;
    read(name, &ask(&bytes)?)
}

/// With an empty password, as what is asked for has none.
fn bytes_of(command: &impl TpmFrame, is_authorized: bool) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let password = TpmsAuthCommand {
        session_handle: TpmHandle::new(TpmRh::Pw.value()),
        ..TpmsAuthCommand::default()
    };
    let (tag, sessions) = match is_authorized {
        true => (TpmSt::Sessions, std::slice::from_ref(&password)),
        false => (TpmSt::NoSessions, [].as_slice()),
    };
    let mut bytes = Zeroizing::new(vec![0; BYTES_MAX]);
    let mut writer = TpmWriter::new(&mut bytes);
    tpm_marshal_command(command, tag, sessions, &mut writer)?;
    let len = writer.len();
    bytes.truncate(len);
    Ok(bytes)
}

fn read<R: TpmUnmarshalBody>(name: &'static str, answer: &[u8]) -> Result<R, Error> {
    if answer.starts_with(&FORMER_ANSWER) {
        return Err(Error::Former);
    }
    let understood = |error| Error::Answer(name, error);
    let answer = TpmResponse::cast(answer).map_err(understood)?;
    let code = answer.rc().map_err(understood)?;
    if code.base() != TpmRcBase::Success {
        return Err(Error::Refused(name, code));
    }
    answer.unmarshal().map_err(understood)
}

#[cfg(test)]
#[path = "tpm_tests.rs"]
mod tests;
