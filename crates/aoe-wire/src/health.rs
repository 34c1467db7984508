//! What a target tells of a drive's health: the payload of the reply to HEALTH.

use block::{Buffer, DriveHealth, HealthState};

use super::export::{put_text, text};
use super::{ParseError, bytes_at, u32_at, u64_at};

const STATE: usize = 0;
const WEAR: usize = STATE + 1;
const TEMPERATURE: usize = WEAR + 1;
const HOURS: usize = TEMPERATURE + 2;
const REALLOCATED: usize = HOURS + 4;
const UNREADABLE: usize = REALLOCATED + 8;
const REASON: usize = UNREADABLE + 8;
const HEALTH_BYTES: usize = REASON + block::REASON_BYTES_MAX;
const _: () = assert!(HEALTH_BYTES == 120);

/// A temperature that isn't known.
const NO_TEMPERATURE: i16 = i16::MIN;

/// How a drive is, as bytes.
pub struct HealthPayload;

impl HealthPayload {
    /// Reads the payload; `None` of a state that isn't known here.
    pub fn parse(payload: &[u8]) -> Result<Option<DriveHealth>, ParseError> {
        if payload.len() != HEALTH_BYTES {
            return Err(ParseError::Length);
        }
        let state = match payload[STATE] {
            1 => HealthState::Good,
            2 => HealthState::Ageing,
            3 => HealthState::Failing,
            _ => return Ok(None),
        };
        let temperature = i16::from_be_bytes(bytes_at(payload, TEMPERATURE)?);
        let known = |count: u64| (count != u64::MAX).then_some(count);
        Ok(Some(DriveHealth {
            state,
            reason: text(&bytes_at::<{ block::REASON_BYTES_MAX }>(payload, REASON)?),
            temperature_celsius: (temperature != NO_TEMPERATURE).then_some(temperature),
            wear_percent: (payload[WEAR] != u8::MAX).then_some(payload[WEAR]),
            power_on_hours: Some(u32_at(payload, HOURS)?).filter(|hours| *hours != u32::MAX),
            reallocated: known(u64_at(payload, REALLOCATED)?),
            unreadable: known(u64_at(payload, UNREADABLE)?),
        }))
    }

    /// The payload; of state 0 where nothing is known.
    pub fn emit(health: Option<&DriveHealth>) -> Buffer {
        let mut bytes = [0; HEALTH_BYTES];
        let Some(health) = health else { return Buffer::copy_of(&bytes) };
        bytes[STATE] = match health.state {
            HealthState::Good => 1,
            HealthState::Ageing => 2,
            HealthState::Failing => 3,
        };
        bytes[WEAR] = health.wear_percent.unwrap_or(u8::MAX);
        let temperature = health.temperature_celsius.unwrap_or(NO_TEMPERATURE);
        bytes[TEMPERATURE..HOURS].copy_from_slice(&temperature.to_be_bytes());
        let hours = health.power_on_hours.unwrap_or(u32::MAX);
        bytes[HOURS..REALLOCATED].copy_from_slice(&hours.to_be_bytes());
        let count = |count: Option<u64>| count.unwrap_or(u64::MAX).to_be_bytes();
        bytes[REALLOCATED..UNREADABLE].copy_from_slice(&count(health.reallocated));
        bytes[UNREADABLE..REASON].copy_from_slice(&count(health.unreadable));
        put_text(&mut bytes[REASON..], &health.reason);
        Buffer::copy_of(&bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn worn() -> DriveHealth {
        DriveHealth {
            state: HealthState::Ageing,
            reason: "8 sectors can't be read".into(),
            temperature_celsius: Some(-3),
            wear_percent: Some(91),
            power_on_hours: Some(40_000),
            reallocated: Some(5),
            unreadable: Some(8),
        }
    }

    #[test]
    fn what_is_told_is_heard() {
        let unknown = DriveHealth {
            state: HealthState::Failing,
            reason: String::new(),
            temperature_celsius: None,
            wear_percent: None,
            power_on_hours: None,
            reallocated: None,
            unreadable: None,
        };
        for health in [worn(), unknown] {
            assert_eq!(
                HealthPayload::parse(&HealthPayload::emit(Some(&health))).unwrap(),
                Some(health)
            );
        }
    }

    #[test]
    fn what_is_not_known_is_no_health_and_no_length_is_another() {
        assert_eq!(HealthPayload::parse(&HealthPayload::emit(None)).unwrap(), None);
        let mut bytes = HealthPayload::emit(Some(&worn())).to_vec();
        for state in [0, 4, 255] {
            bytes[STATE] = state;
            assert_eq!(HealthPayload::parse(&bytes).unwrap(), None);
        }
        for len in [0, 119, 121] {
            assert!(HealthPayload::parse(&vec![1; len]).is_err());
        }
    }

    #[test]
    fn a_reason_is_cut_where_a_character_ends() {
        let health = DriveHealth { reason: "\u{e9}".repeat(60), ..worn() };
        let heard = HealthPayload::parse(&HealthPayload::emit(Some(&health))).unwrap().unwrap();
        assert_eq!(heard.reason, "\u{e9}".repeat(48));
    }
}
