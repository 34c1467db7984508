//! A session: one client's commands, one after the other, each answered before the next is looked at.
//! What a client sends ahead waits its turn; only ABOR is seen while a transfer runs.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures::{FutureExt, pin_mut, select_biased};
use rustix::fs::{AtFlags, Stat};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::accounts::{FtpUser, LoginRefused, is_anonymous};
use super::beneath::{self, Beneath, relative};
use super::command::{Command, Listing, features};
use super::control::{Control, End};
use super::data::{Flow, Passive, Transfer};
use super::listing::{facts, is_directory, listing, size_bytes, time_text};
use super::reply::Reply;
use super::root::Home;
use super::server::{FtpTls, Shared};
use super::tls::Tls;
use crate::places::Place;

/// Serves a client until it goes or has to.
pub(super) async fn serve(
    shared: Arc<Shared>,
    client: TcpStream,
    peer: SocketAddr,
    (place, stranger): (OwnedSemaphorePermit, Place<IpAddr>),
) -> io::Result<End> {
    client.set_nodelay(true)?;
    // Some clients send ABOR as urgent data, whose last byte, the end of the line, would be elsewhere.
    rustix::net::sockopt::set_socket_oobinline(&client, true)?;
    let local = client.local_addr()?;
    let mut stop = shared.stopping.clone();
    let mut control = Control::new(client, shared.config.idle);
    let login_by = Instant::now() + shared.config.login;
    let mut session = Session {
        shared,
        place: Arc::new(place),
        stranger: Some(stranger),
        login_by,
        peer: peer.ip(),
        local,
        named: None,
        user: None,
        directory: ".".into(),
        restart: 0,
        rename_from: None,
        passive: Passive::default(),
        passive_always: false,
        tls: None,
        is_private: false,
    };
    let end = {
        let stopped = stop.wait_for(|stop| *stop).map(|_| ()).fuse();
        let served = session.run(&mut control).fuse();
        pin_mut!(stopped, served);
        select_biased! {
            () = stopped => End::Stopped,
            end = served => match end { Err(end) => end, Ok(never) => match never {} },
        }
    };
    control.close(end).await;
    Ok(end)
}

struct Session {
    shared: Arc<Shared>,
    /// Among those that may be at a time.
    place: Arc<OwnedSemaphorePermit>,
    /// And among those that haven't logged in, as long as it hasn't.
    stranger: Option<Place<IpAddr>>,
    /// When it has to have done so.
    login_by: Instant,
    /// The client.
    peer: IpAddr,
    /// The address that it reached us at.
    local: SocketAddr,
    /// Who the client says to be, until the password decides.
    named: Option<String>,
    user: Option<FtpUser>,
    /// The working directory, from the home on, without `..`.
    directory: PathBuf,
    /// Where the next transfer starts.
    restart: u64,
    rename_from: Option<PathBuf>,
    passive: Passive,
    /// By EPSV ALL.
    passive_always: bool,
    /// By what the control connection goes by TLS, if it does.
    tls: Option<Tls>,
    /// By PROT P: data does, too.
    is_private: bool,
}

/// What a transfer does with its connection, on its thread.
type Work = Box<dyn FnOnce(&mut Flow) -> io::Result<()> + Send>;

/// Why a command isn't done.
enum Failure {
    /// The session is over.
    End(End),
    Refused(Reply),
    Volume(io::Error),
}

impl From<End> for Failure {
    fn from(end: End) -> Failure {
        Failure::End(end)
    }
}

impl From<Reply> for Failure {
    fn from(reply: Reply) -> Failure {
        Failure::Refused(reply)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Volume(error)
    }
}

impl Session {
    async fn run(&mut self, control: &mut Control) -> Result<Infallible, End> {
        control.say(&Reply::new(220, "etherpool")).await?;
        loop {
            let line = match self.stranger {
                None => control.line().await?,
                Some(_) => {
                    let line = tokio::time::timeout_at(self.login_by, control.line()).await;
                    line.unwrap_or(Err(End::NoLogin))?
                }
            };
            let command = Command::parse(&line);
            // Strangers and nonsense are no reason to ask the engine.
            let needs_lease =
                self.user.is_some() && command.as_ref().is_ok_and(Command::uses_volume);
            if needs_lease && !self.shared.outside.may_serve().await {
                tracing::warn!(peer = %self.peer, "FTP session ended: no lease");
                return Err(End::LeaseLost);
            }
            // Left by anything else, it would cut the head off a transfer that isn't meant.
            let start = match &command {
                Ok(command) if command.prepares() => self.restart,
                _ => std::mem::take(&mut self.restart),
            };
            let answered = match command {
                Ok(command) => self.answer(control, command, start).await,
                Err(reply) => Ok(Some(reply)),
            };
            let reply = match answered {
                Ok(None) => continue,
                Ok(Some(reply)) | Err(Failure::Refused(reply)) => reply,
                Err(Failure::Volume(error)) => self.told(&error),
                Err(Failure::End(end)) => return Err(end),
            };
            control.say(&reply).await?;
        }
    }

    /// `start` is what REST said, right before. What was agreed on needs no answer.
    async fn answer(
        &mut self,
        control: &mut Control,
        command: Command,
        start: u64,
    ) -> Result<Option<Reply>, Failure> {
        Ok(Some(match command {
            Command::Known(reply) => reply,
            Command::Features => features(self.shared.config.tls.is_some()),
            Command::Quit => return Err(End::Quit.into()),
            Command::Tls => return self.secure(control).await,
            Command::NoBuffer | Command::Protect(_) if self.shared.config.tls.is_none() => no_tls(),
            Command::NoBuffer | Command::Protect(_) if self.tls.is_none() => {
                Reply::new(503, "AUTH TLS comes first.")
            }
            Command::NoBuffer => Reply::new(200, "PBSZ=0"),
            Command::Protect(is_private) => {
                self.is_private = is_private;
                Reply::new(200, if is_private { "Data is private." } else { "Data is in clear." })
            }
            Command::User(name) => self.name(name),
            Command::Password(password) => self.log_in(&password).await,
            _ if self.user.is_none() => not_logged_in(),
            Command::Abort => {
                self.passive.close().await;
                Reply::new(226, "There is no transfer.")
            }
            Command::Status => Reply::new(211, "There is no transfer."),
            Command::Passive(family) => self.passive(family).await?,
            Command::PassiveV4 => self.passive_v4().await?,
            Command::PassiveAlways => {
                self.passive_always = true;
                Reply::new(200, "EPSV only from now on.")
            }
            Command::Restart(start) => {
                self.restart = start;
                Reply::new(350, format!("The next transfer starts at {start}."))
            }
            Command::PrintDirectory => Reply::new(257, quoted(&self.directory)),
            Command::ChangeDirectory(path) => {
                let path = self.resolve(&path)?;
                let asked = path.clone();
                self.look(move |beneath| beneath.directory(&asked).map(|_| ())).await?;
                self.directory = path;
                Reply::new(250, quoted(&self.directory))
            }
            Command::Size(path) => {
                let stat = self.stat(&path).await?;
                if is_directory(&stat) {
                    return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
                }
                Reply::new(213, size_bytes(&stat).to_string())
            }
            Command::ModificationTime(path) => Reply::new(213, time_text(&self.stat(&path).await?)),
            Command::Facts(path) => {
                let facts = facts(&self.stat(&path).await?);
                let line = [facts.as_bytes(), b" ", &shown(&self.resolve(&path)?)].concat();
                Reply::lines(250, "Listing", &[line], "End")
            }
            Command::List(how, path) => {
                let work = self.list(how, &path).await;
                self.transfer(control, work).await?
            }
            Command::Retrieve(path) => {
                let work = self.retrieve(&path, start).await;
                self.transfer(control, work).await?
            }
            Command::Store(path) => {
                let work = self.store(&path, Some(start));
                self.transfer(control, work).await?
            }
            Command::Append(path) => {
                let work = self.store(&path, None);
                self.transfer(control, work).await?
            }
            Command::Delete(path) => self.remove(&path, AtFlags::empty()).await?,
            Command::RemoveDirectory(path) => self.remove(&path, AtFlags::REMOVEDIR).await?,
            Command::MakeDirectory(path) => {
                let path = self.resolve(&path)?;
                let made = Reply::new(257, quoted(&path));
                self.change(move |beneath| beneath.make_directory(&path)).await?;
                made
            }
            Command::RenameFrom(path) => {
                self.stat(&path).await?;
                self.rename_from = Some(self.resolve(&path)?);
                Reply::new(350, "RNTO comes next.")
            }
            Command::RenameTo(path) => {
                let from = self.rename_from.take();
                let from = from.ok_or_else(|| Reply::new(503, "RNFR comes first."))?;
                let to = self.resolve(&path)?;
                self.change(move |beneath| beneath.rename(&from, &to)).await?;
                Reply::new(250, "Renamed.")
            }
        }))
    }

    fn name(&mut self, name: String) -> Reply {
        if self.user.is_some() {
            return Reply::new(503, "Connect anew to log in as somebody else.");
        }
        // Before the password is said.
        if self.needs_tls() && self.tls.is_none() && !is_anonymous(&name) {
            return Reply::new(530, "Log in by TLS: AUTH TLS comes first.");
        }
        self.named = Some(name);
        Reply::new(331, "Password, please.")
    }

    async fn log_in(&mut self, password: &[u8]) -> Reply {
        let Some(name) = self.named.take() else {
            return Reply::new(503, "USER comes first.");
        };
        let peer = self.peer.to_canonical();
        match self.shared.accounts.log_in(&name, password, peer).await {
            Ok(user) => self.user = Some(user),
            Err(LoginRefused::Wrong) => {
                tracing::warn!(%peer, user = name, "FTP login refused");
                return Reply::new(530, "Wrong name or password.");
            }
            // Who has the right password must know that it isn't that; who guesses learns nothing about passwords.
            Err(LoginRefused::Locked(left)) => {
                tracing::warn!(%peer, user = name, "FTP login refused: too many wrong passwords from there");
                let minutes = left.as_secs().div_ceil(60).max(1);
                return Reply::new(
                    530,
                    format!(
                        "Too many wrong passwords from your address: try again in {minutes} min."
                    ),
                );
            }
        }
        self.stranger = None;
        Reply::new(230, "Logged in.")
    }

    async fn passive(&mut self, family: Option<u8>) -> Result<Reply, Reply> {
        let local = if self.local.ip().to_canonical().is_ipv4() { 1 } else { 2 };
        if family.is_some_and(|family| family != local) {
            return Err(Reply::new(522, format!("Network protocol not supported, use ({local})")));
        }
        let port = self.listen().await?;
        Ok(Reply::new(229, format!("Entering Extended Passive Mode (|||{port}|)")))
    }

    async fn passive_v4(&mut self) -> Result<Reply, Reply> {
        let IpAddr::V4(address) = self.local.ip().to_canonical() else {
            return Err(Reply::new(425, "PASV is for IPv4; use EPSV."));
        };
        if self.passive_always {
            return Err(Reply::new(503, "EPSV ALL was said."));
        }
        let [high, low] = self.listen().await?.to_be_bytes();
        let [a, b, c, d] = address.octets();
        Ok(Reply::new(227, format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low}).")))
    }

    async fn listen(&mut self) -> Result<u16, Reply> {
        let ports = self.shared.config.passive_ports.clone();
        let listening = self.passive.listen(self.local, ports, self.peer).await;
        listening.map_err(|_| Reply::new(425, "No port is free for data."))
    }

    async fn list(&self, how: Listing, path: &Path) -> Result<Work, Failure> {
        self.needs_data_connection()?;
        let path = self.resolve(path)?;
        let (_, home) = self.home()?;
        let open = home.open(move |beneath| beneath.directory(&path)).await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_secs = now.map_or(0, |now| now.as_secs() as i64);
        Ok(Box::new(move |flow| {
            open.as_user(|directory| {
                beneath::list(directory, |entries| flow.send(&listing(entries, how, now_secs)))
            })?;
            flow.end()
        }))
    }

    async fn retrieve(&self, path: &Path, start: u64) -> Result<Work, Failure> {
        self.needs_data_connection()?;
        let path = self.resolve(path)?;
        let (user, home) = self.home()?;
        let (user, asked) = (user.clone(), path.clone());
        let open = home.open(move |beneath| beneath.read(&asked, start)).await?;
        Ok(Box::new(move |flow| {
            let sent = open.as_user(|file| flow.send_file(file));
            log("FTP sent", &user, &path, start, flow.bytes(), sent)
        }))
    }

    /// From `start` on, or the end of what is there.
    fn store(&self, path: &Path, start: Option<u64>) -> Result<Work, Failure> {
        self.needs_data_connection()?;
        let path = self.resolve(path)?;
        let (user, home) = self.home()?;
        if !user.may_write {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        let user = user.clone();
        // Opened only when the client is connected: what is there isn't cut for one who never comes.
        Ok(Box::new(move |flow| {
            home.as_user(|beneath| {
                let mut file = match start {
                    Some(start) => beneath.write(&path, start)?,
                    None => beneath.append(&path)?,
                };
                let received = flow.receive(&mut file).and_then(|()| {
                    file.sync_all()?;
                    beneath.sync_parent(&path)
                });
                log("FTP received", &user, &path, start.unwrap_or(0), flow.bytes(), received)
            })?;
            flow.acknowledge();
            Ok(())
        }))
    }

    /// Goes on by TLS, after saying so in clear; or says why not.
    async fn secure(&mut self, control: &mut Control) -> Result<Option<Reply>, Failure> {
        if self.shared.config.tls.is_none() {
            return Ok(Some(no_tls()));
        }
        if self.tls.is_some() || self.user.is_some() {
            return Ok(Some(Reply::new(503, "AUTH TLS comes first, and once.")));
        }
        let secured = async {
            let tls = match self.shared.outside.certificate().await {
                Ok(tls) => Tls::of(tls),
                Err(error) => {
                    tracing::error!("FTP offers no TLS at the moment: {error}");
                    let why = "The certificate can't be used at the moment.";
                    control.say(&Reply::new(431, why)).await?;
                    // Who asks again connects again: nobody has files read as fast as he can ask.
                    return Err(Failure::End(End::NoTls));
                }
            };
            control.say(&Reply::new(234, "Go on by TLS.")).await?;
            control.secure(Arc::clone(&tls.control)).await?;
            Ok(tls)
        };
        // Whoever asks hasn't logged in.
        let secured = tokio::time::timeout_at(self.login_by, secured).await;
        let tls = secured.unwrap_or(Err(Failure::End(End::NoTls)))?;
        // Whoever it was in clear, nobody has proved to be the same.
        self.named = None;
        self.tls = Some(tls);
        Ok(None)
    }

    fn needs_tls(&self) -> bool {
        self.shared.config.tls == Some(FtpTls::Required)
    }

    fn needs_data_connection(&self) -> Result<(), Reply> {
        let is_known = self.user.as_ref().is_some_and(|user| !user.is_anonymous());
        if is_known && self.needs_tls() && !self.is_private {
            return Err(Reply::new(521, "Data goes by TLS only: PROT P comes first."));
        }
        if !self.passive.is_listening() {
            return Err(Reply::new(425, "EPSV or PASV comes first."));
        }
        Ok(())
    }

    /// Does the work of a transfer, if it may. The data connection is for no other, in any case.
    async fn transfer(
        &mut self,
        control: &mut Control,
        work: Result<Work, Failure>,
    ) -> Result<Reply, Failure> {
        let done = match work {
            Ok(work) => self.connect_and_move(control, work).await,
            Err(failure) => Err(failure),
        };
        self.passive.close().await;
        done
    }

    /// Connects and moves data, unless the client calls it off.
    async fn connect_and_move(
        &mut self,
        control: &mut Control,
        work: Work,
    ) -> Result<Reply, Failure> {
        control.say(&Reply::new(150, "Data comes or goes.")).await?;
        let aborted = || Reply::new(226, "Aborted.");
        let Some(connected) = control.unless_aborted(self.passive.connected()).await? else {
            control.say(&Reply::new(426, "The transfer was aborted.")).await?;
            return Ok(aborted());
        };
        let stream = connected.ok_or_else(|| Reply::new(425, "No data connection was made."))?;
        let tls = self.tls.as_ref().filter(|_| self.is_private).map(|tls| Arc::clone(&tls.data));
        let mut transfer = Transfer::start(stream, tls, self.shared.config.idle, work)?;
        if let Some(ended) = control.unless_aborted(transfer.ended()).await? {
            return Ok(self.moved(ended));
        }
        transfer.call_off();
        let reply = self.moved(transfer.ended().await);
        control.say(&reply).await?;
        Ok(aborted())
    }

    fn moved(&self, result: io::Result<()>) -> Reply {
        match result {
            Ok(()) => Reply::new(226, "All is transferred."),
            Err(error) => self.told(&error),
        }
    }

    async fn remove(&self, path: &Path, what: AtFlags) -> Result<Reply, Failure> {
        let path = self.resolve(path)?;
        self.change(move |beneath| beneath.remove(&path, what)).await?;
        Ok(Reply::new(250, "Removed."))
    }

    async fn stat(&self, path: &Path) -> Result<Stat, Failure> {
        let path = self.resolve(path)?;
        self.look(move |beneath| beneath.stat(&path)).await
    }

    /// Does something that changes the volume.
    async fn change(
        &self,
        work: impl FnOnce(&Beneath) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Failure> {
        if !self.home()?.0.may_write {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        self.look(work).await
    }

    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Beneath) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        Ok(self.home()?.1.run(work).await?)
    }

    /// The user, and their part of the volume.
    fn home(&self) -> Result<(&FtpUser, Home), Failure> {
        let user = self.user.as_ref().ok_or_else(not_logged_in)?;
        Ok((user, self.shared.root.home(user, &self.place)?))
    }

    /// What `path` means in the working directory, from the home on.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        relative(&self.directory.join(path))
    }

    fn told(&self, error: &io::Error) -> Reply {
        let reply = Reply::of_error(error);
        if reply.code() == 451 {
            tracing::warn!(peer = %self.peer, %error, "FTP command failed");
        }
        reply
    }
}

fn not_logged_in() -> Reply {
    Reply::new(530, "Log in with USER and PASS.")
}

fn log(
    what: &str,
    user: &FtpUser,
    path: &Path,
    start: u64,
    bytes: u64,
    result: io::Result<()>,
) -> io::Result<()> {
    let path = path.display();
    match &result {
        Ok(()) => tracing::info!(%user, %path, bytes, start, "{what}"),
        Err(error) => tracing::info!(%user, %path, bytes, start, %error, "{what} in part"),
    }
    result
}

fn no_tls() -> Reply {
    Reply::new(502, "TLS is not offered.")
}

/// A path as clients see it, from the home on.
fn shown(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    [&b"/"[..], if bytes == b"." { &[][..] } else { bytes }].concat()
}

/// In quotes; quotes within are doubled.
fn quoted(path: &Path) -> Vec<u8> {
    let mut bytes = vec![b'"'];
    for byte in shown(path) {
        bytes.push(byte);
        if byte == b'"' {
            bytes.push(b'"');
        }
    }
    bytes.push(b'"');
    bytes
}
