//! `etherpool join` on a node, and `etherpool token` on a supervisor: how machines come to know each other's keys.

use std::fmt::Display;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use client::{Address, Client};
use control::api::{CreateToken, CreatedToken, MembersReport, TokenReport};
use control::duration::Span;
use control::exit::Exit;
use control::node::{NodeReply, NodeRequest};
use seal::{Token, TokenId};
use terminal::Slow;
use zeroize::Zeroizing;

use super::output;
use super::target_client::{RUN_DIR, TargetClient, targets};
use super::{Context, Failure};

/// How long a node may take for an answer.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a supervisor is waited for that has the token too.
const HEARD_WITHIN: Duration = Duration::from_secs(20);
/// How long a supervisor of this machine may take to say whether the token is its own.
const OWN_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longer than a token and whatever is around it.
const TOKEN_BYTES_MAX: u64 = 1024;

/// Tokens, by which nodes join this supervisor.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, good for any number of nodes and for a while, and print it
    Create {
        /// How long it is good, for example 15min, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "24h")]
        valid: Span,
    },
    /// Show the tokens that are good at present, without their secrets
    List,
    /// Give up a token: nobody joins by it any more. Who has joined stays
    Revoke {
        /// As `token list` shows it
        token: TokenId,
    },
}

/// Arguments of `join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// File with the token; it is asked for without, or read from standard input
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Run directory of the node, or its control socket
    #[arg(long, value_name = "PATH", default_value = RUN_DIR)]
    node: PathBuf,
}

/// Runs what is asked of a supervisor.
pub async fn run(context: &Context, command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create { valid } => {
            let request = CreateToken { valid_seconds: valid.0.as_secs() };
            let created: CreatedToken = context.client.post("/v2/tokens", &request).await?;
            output::show(context.json, &created, || format!("{}\n", *created.token.to_text()))?;
            if std::io::stdout().is_terminal() && !context.json {
                eprintln!(
                    "On each node, within {}: etherpool join",
                    block::spoken(left_of(&created.report))
                );
            }
        }
        TokenCommand::List => {
            let MembersReport { tokens, .. } = context.client.get("/v2/members").await?;
            output::show(context.json, &tokens, || describe_tokens(&tokens))?;
        }
        TokenCommand::Revoke { token } => {
            let () = context.client.delete(&format!("/v2/tokens/{token}")).await?;
            output::show(context.json, &(), || {
                format!(
                    "no node joins this supervisor by {token} any more; one that has it, and hasn't joined, drops it when its time is over\n"
                )
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn left_of(token: &TokenReport) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(token.until).saturating_sub(now)
}

/// Tokens for people.
pub fn describe_tokens(tokens: &[TokenReport]) -> String {
    if tokens.is_empty() {
        return "No token is good at present. To make one: etherpool token create\n".to_owned();
    }
    let line = |token: &TokenReport| {
        format!("{}  good for {} more\n", token.id, block::spoken(left_of(token)))
    };
    tokens.iter().map(line).collect()
}

/// Runs `join`.
pub fn join(args: &JoinArgs, json: bool) -> Result<Exit, Failure> {
    let token = match &args.file {
        Some(file) => {
            let opened = std::fs::File::open(file);
            let unreadable = |error| unreadable(&file.display(), &error);
            let opened = opened.map_err(unreadable)?;
            read_token(opened, &file.display())?
        }
        None => {
            if std::io::stdin().is_terminal() {
                let asked = "Token (etherpool token create, on the supervisor): ";
                parse(&Zeroizing::new(super::user::prompt(asked)?), &"what was typed")?
            } else {
                read_token(std::io::stdin(), &"standard input")?
            }
        }
    };
    let mut node = only(&args.node, NODE_TIMEOUT)?;
    let id = token.id();
    if args.node == Path::new(RUN_DIR) && is_own(id)? {
        let report = members_of(node.ask(&NodeRequest::Status)?);
        output::show(json, &report, || {
            "Nothing to join: the token is of this machine's own supervisor, which may have its disks without one\n"
                .to_owned()
        })?;
        return Ok(Exit::Ok);
    }
    let mut report = members_of(node.ask(&NodeRequest::Join { token })?);
    let is_waiting = |report: &MembersReport| report.tokens.iter().any(|known| known.id == id);
    let begun = Instant::now();
    let slow = Slow::begin("a supervisor that has this token".to_owned(), false);
    // It is used up as soon as a supervisor has proved to have it, too.
    while is_waiting(&report) && begun.elapsed() < HEARD_WITHIN {
        std::thread::sleep(LOOK_EVERY);
        report = members_of(node.ask(&NodeRequest::Status)?);
    }
    drop(slow);
    let has_joined = !is_waiting(&report);
    output::show(json, &report, || {
        match has_joined {
        true => "Joined: the supervisor that made the token may have this machine's disks\n".to_owned(),
        false => "The token is kept. No supervisor that has it was heard yet: see that one runs, with an interface on \
            the Ethernet of this node, and that it hasn't given the token up (etherpool token list)\n"
            .to_owned(),
    }
    })?;
    Ok(Exit::of_health(has_joined))
}

/// Whether the supervisor of this machine made a token. It hears no handshake of its own node, so nobody would ever prove
/// to have it.
fn is_own(token: TokenId) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = Client::new(Address::Socket(client::SOCKET.into())).timeout(Some(OWN_LIMIT));
    let told =
        runtime.map_err(anyhow::Error::from)?.block_on(client.get::<MembersReport>("/v2/members"));
    // There may be none.
    Ok(told.is_ok_and(|report| report.tokens.iter().any(|known| known.id == token)))
}

fn members_of(reply: NodeReply) -> MembersReport {
    match reply {
        NodeReply::Status(status) => status.members,
        _ => MembersReport::default(),
    }
}

/// The node of this run directory.
pub fn only(node: &Path, timeout: Duration) -> Result<TargetClient, Failure> {
    let found = targets(Some(node), timeout)?.into_iter().next();
    found.ok_or_else(|| {
        Failure::not_running("no node answers".to_owned(), "start one: etherpool node")
    })
}

fn read_token(from: impl Read, place: &dyn Display) -> Result<Token, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = from.take(TOKEN_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| unreadable(place, &error))?;
    parse(&text, place)
}

fn unreadable(place: &dyn Display, error: &std::io::Error) -> Failure {
    Failure::of_file(format!("{place} can't be read: {error}"), error)
        .remedy("give a file with the token by --file, or the token on standard input")
}

/// What isn't one isn't repeated: it may be a secret of something else.
fn parse(text: &str, place: &dyn Display) -> Result<Token, Failure> {
    Token::parse(text).map_err(|error| {
        Failure::usage(format!("{place} is no token: {error}"))
            .remedy("make one on the supervisor: etherpool token create")
    })
}
