//! The settings of exports as options of `etherpool target`.

use aoe_target::{Access, AccessOperation, OnRefusal, Probe};
use block::UnknownWord;
use block::size::parse_bytes;
use clap::Args;
use control::node::{
    AccessLists, DamagedState, Editors, ExportConfig, ExportSettings, IoMode, Limit, Sectors,
    WriteCache,
};

/// Options that hold for all exports of the command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Settings of the exports")]
pub struct SettingsArgs {
    /// Interfaces to answer on: names, or patterns with `*`; all Ethernet interfaces by default
    #[arg(short = 'i', long = "interface", value_name = "IF", value_delimiter = ',')]
    interfaces: Vec<String>,
    /// Past the page cache (direct, the default) or through it (buffered)
    #[arg(long, value_name = "HOW")]
    io: Option<IoMode>,
    /// Answer writes when they are on stable storage (off, the default), at once (on), or as clients
    /// ask by SET FEATURES (switchable)
    #[arg(long, value_name = "WHEN")]
    write_cache: Option<WriteCache>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Where on the disk the export begins: bytes with a unit (1M), or sectors (63s)
    #[arg(long, value_name = "PLACE")]
    offset: Option<Sectors>,
    /// How long the export is; up to the disk's end by default
    #[arg(long, value_name = "LENGTH")]
    length: Option<Sectors>,
    /// Commands that are queued before more are dropped
    #[arg(long, value_name = "COUNT")]
    queue_length: Option<u32>,
    /// Messages that clients are told they may have outstanding
    #[arg(long, value_name = "COUNT")]
    buffers: Option<u16>,
    /// Most sectors per command to tell clients; what suits the interface by default
    #[arg(long, value_name = "COUNT")]
    sectors: Option<u8>,
    /// Largest frame to use, whatever the interface could do
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Log every request
    #[arg(long)]
    trace_io: bool,
    /// The configuration string until a client sets another
    #[arg(long, value_name = "TEXT")]
    config_string: Option<String>,
    /// Announce the exports at their start and when their size changes [default: on]
    #[arg(long, value_name = "on|off", value_parser = parse_switch)]
    announce: Option<bool>,
    /// Name of a symbolic link to the path, below `exports` in the run directory
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Serial number in IDENTIFY; shelf, slot and machine by default
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,
    /// How to answer requests that are refused for who asks: ata-error (the default), aoe-error
    /// (Linux retries those for three minutes) or silent
    #[arg(long, value_name = "HOW")]
    on_refusal: Option<OnRefusal>,
    /// What to do about others that answer for an address: off, report (the default) or defend
    #[arg(long, value_name = "WHAT")]
    probe: Option<Probe>,
    /// Answer these MAC addresses (and groups of the configuration) and nobody else
    #[arg(long, value_name = "MAC", value_delimiter = ',', conflicts_with = "accept")]
    allow: Vec<String>,
    /// Who may do something: discover, config-read, config-set, read or write
    #[arg(long, value_name = "OPERATION=MAC,…", value_parser = parse_list)]
    accept: Vec<(AccessOperation, Vec<String>)>,
    /// Who may not, even if accepted
    #[arg(long, value_name = "OPERATION=MAC,…", value_parser = parse_list)]
    deny: Vec<(AccessOperation, Vec<String>)>,
    /// What clients may do that no list names: accept (the default) or reject
    #[arg(long, value_name = "POLICY")]
    default_access: Option<Access>,
    /// Who may change mask list and reservation by the protocol: all (the default), nobody, or MAC
    /// addresses
    #[arg(long, value_name = "WHO")]
    list_editors: Option<Editors>,
    /// Bound on the requests of all clients together
    #[arg(long, value_name = "COUNT")]
    requests_per_second: Option<u64>,
    /// Bound on the traffic of all clients together: 10M
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    bytes_per_second: Option<u64>,
    /// Bound on the requests of each client
    #[arg(long, value_name = "COUNT")]
    client_requests_per_second: Option<u64>,
    /// Bound on the traffic of each client
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    client_bytes_per_second: Option<u64>,
    /// When the file with mask list and reservation is damaged: closed (the default) or discard
    #[arg(long, value_name = "WHAT")]
    damaged_state: Option<DamagedState>,
}

impl SettingsArgs {
    /// As settings, and what only an export can have.
    pub fn resolve(self) -> (ExportSettings, ExportConfig) {
        let own = ExportConfig {
            name: self.name.clone(),
            offset: self.offset.unwrap_or_default(),
            length: self.length,
            serial: self.serial.clone(),
            ..ExportConfig::default()
        };
        let limit = |requests_per_second: Option<u64>, bytes_per_second: Option<u64>| {
            let limit = Limit { requests_per_second, bytes_per_second };
            (limit != Limit::default()).then_some(limit)
        };
        let settings = ExportSettings {
            access: self.access(),
            interfaces: (!self.interfaces.is_empty()).then_some(self.interfaces),
            read_only: self.read_only.then_some(true),
            io: self.io,
            write_cache: self.write_cache,
            queue_length: self.queue_length,
            buffers: self.buffers,
            sectors: self.sectors,
            mtu: self.mtu,
            trace_io: self.trace_io.then_some(true),
            config_string: self.config_string,
            announce: self.announce,
            on_refusal: self.on_refusal,
            probe: self.probe,
            default_access: self.default_access,
            list_editors: self.list_editors,
            limit: limit(self.requests_per_second, self.bytes_per_second),
            client_limit: limit(self.client_requests_per_second, self.client_bytes_per_second),
            damaged_state: self.damaged_state,
        };
        (settings, own)
    }

    fn access(&self) -> Option<AccessLists> {
        if self.allow.is_empty() && self.accept.is_empty() && self.deny.is_empty() {
            return None;
        }
        let mut lists = AccessLists::default();
        if !self.allow.is_empty() {
            for operation in AccessOperation::ALL {
                lists.entry(operation).or_default().accept.extend(self.allow.iter().cloned());
            }
        }
        for (operation, macs) in &self.accept {
            lists.entry(*operation).or_default().accept.extend(macs.iter().cloned());
        }
        for (operation, macs) in &self.deny {
            lists.entry(*operation).or_default().deny.extend(macs.iter().cloned());
        }
        Some(lists)
    }
}

fn parse_list(text: &str) -> Result<(AccessOperation, Vec<String>), String> {
    let (operation, macs) =
        text.split_once('=').ok_or("want for example read=02:00:00:00:00:01")?;
    let operation = operation.parse().map_err(|error: UnknownWord| error.to_string())?;
    Ok((operation, macs.split(',').map(|mac| mac.trim().to_owned()).collect()))
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("'{other}' is neither on nor off")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    fn settings(line: &str) -> ExportSettings {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().settings.resolve().0
    }

    /// Every setting of a configuration can be said on the command line, with the same effect.
    #[test]
    fn options_mean_what_the_configuration_means() {
        let options = "-i eth0,eth1 -i v* --read-only --io buffered --write-cache switchable \
            --queue-length 9 --buffers 8 --sectors 2 --mtu 1500 --trace-io --config-string x \
            --announce off --on-refusal silent --probe defend --default-access reject \
            --accept read=a,b --accept write=a --deny read=b --list-editors a \
            --requests-per-second 5 --bytes-per-second 1M --client-requests-per-second 6 \
            --client-bytes-per-second 2M --damaged-state discard";
        let file = "interfaces = ['eth0', 'eth1', 'v*']\nread-only = true\nio = 'buffered'\n\
            write-cache = 'switchable'\nqueue-length = 9\nbuffers = 8\nsectors = 2\nmtu = 1500\n\
            trace-io = true\nconfig-string = 'x'\nannounce = false\non-refusal = 'silent'\n\
            probe = 'defend'\ndefault-access = 'reject'\nlist-editors = ['a']\n\
            limit = { requests-per-second = 5, bytes-per-second = '1M' }\n\
            client-limit = { requests-per-second = 6, bytes-per-second = '2M' }\n\
            damaged-state = 'discard'\n\
            [access]\nread = { accept = ['a', 'b'], deny = ['b'] }\nwrite.accept = ['a']\n";
        let from_file: ExportSettings = toml::from_str(file).unwrap();
        assert_eq!(settings(options), from_file);
        // Nothing is left out above.
        let keys = toml::Table::try_from(&from_file).unwrap();
        assert_eq!(keys.len(), 19, "{keys:?}");
        assert_eq!(settings(""), ExportSettings::default());
    }

    #[test]
    fn allowing_is_accepting_for_everything() {
        let lists = settings("--allow a,b --deny write=b").access.unwrap();
        for operation in AccessOperation::ALL {
            assert_eq!(lists[&operation].accept, ["a", "b"]);
        }
        assert_eq!(lists[&AccessOperation::Write].deny, ["b"]);
    }
}
