#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use control::api::{ApiClient, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tls::{authorities, nameless_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::super::commands::REQUEST_BYTES_MAX;
use super::*;

const LONG: Duration = Duration::from_secs(60);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The API of a router that says who asks, and the files of those who may and may not.
struct Api {
    door: Arc<Door>,
    address: SocketAddr,
    directory: tempfile::TempDir,
    authority: Authority,
}

fn untold() -> Arc<Lasting> {
    Arc::new(Lasting::logged(|_| {}))
}

impl Api {
    async fn new() -> Api {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority("ours");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("ca.pem"), authority.pem()).unwrap();
        certify(directory.path(), "server", &authority, |params| {
            params.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())];
        });
        let client = |name: &str, role| ApiClient { name: name.to_owned(), role };
        let config = ApiConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            certificate: Some(at("server.pem")),
            key: Some(at("server.key")),
            client_ca: Some(at("ca.pem")),
            clients: vec![client("ann", Role::Administer), client("bob.example", Role::Read)],
        };
        let who = async |ConnectInfo(peer): ConnectInfo<Peer>| peer.name();
        let router = Router::new()
            .route("/who", get(who))
            .route("/take", post(async |body: axum::body::Bytes| body.len().to_string()));
        let door = Arc::new(Door::new(config, router, Handle::current(), untold()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = Arc::clone(&door);
        tokio::spawn(async move { accept(&accepting, listener).await });
        Api { door, address, directory, authority }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A client of the API's authority with this name.
    fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> ClientConfig {
        self.client_of(&self.authority, name, change)
    }

    fn client_of(
        &self,
        authority: &Authority,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> ClientConfig {
        let files = certify(self.directory.path(), "client", authority, |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            change(params);
        });
        files.client(authorities(&self.at("ca.pem")).unwrap()).unwrap()
    }

    async fn connect(&self, client: &ClientConfig) -> std::io::Result<Client> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(client.clone())).connect(name, tcp).await.map(Client)
    }

    /// The answer to a look at who asks, or why there is none.
    async fn who(&self, client: &ClientConfig) -> std::io::Result<String> {
        self.connect(client).await?.ask("GET /who", "").await
    }
}

struct Client(tokio_rustls::client::TlsStream<TcpStream>);

impl Client {
    async fn ask(&mut self, request: &str, body: &str) -> std::io::Result<String> {
        let head =
            format!("{request} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.write_all(head.as_bytes()).await?;
        self.0.write_all(body.as_bytes()).await?;
        self.0.flush().await?;
        self.answer().await
    }

    /// One answer, or what there is of it when the other end ends the connection.
    async fn answer(&mut self) -> std::io::Result<String> {
        let mut text = String::new();
        while !is_whole(&text) {
            let mut some = [0; 4096];
            let read = tokio::time::timeout(LONG, self.0.read(&mut some)).await;
            match read.expect("an answer, or an end")? {
                0 if text.is_empty() => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                0 => break,
                count => text.push_str(&String::from_utf8_lossy(&some[..count])),
            }
        }
        Ok(text)
    }
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| length.parse() == Ok(body.len()))
}

/// Files of somebody's certificate, which this authority has signed.
fn certify(
    directory: &Path,
    file: &str,
    authority: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> KeyFiles {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    change(&mut params);
    let files = KeyFiles {
        certificate: directory.join(format!("{file}.pem")),
        key: directory.join(format!("{file}.key")),
    };
    std::fs::write(&files.certificate, params.signed_by(&key, authority).unwrap().pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    files
}

#[tokio::test]
async fn who_is_named_is_let_in_with_his_role() {
    let api = Api::new().await;
    let answer = api.who(&api.client("ann", |_| {})).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nann (administer), from 127.0.0.1"), "{answer}");
    let bob = api.client("whoever", |params| {
        let name = "bob.example".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::DnsName(name));
    });
    let mut bob = api.connect(&bob).await.unwrap();
    for _ in 0..3 {
        let answer = bob.ask("GET /who", "").await.unwrap();
        assert!(answer.ends_with("bob.example (read), from 127.0.0.1"), "{answer}");
    }
}

#[tokio::test]
async fn who_is_signed_but_not_named_gets_a_reason_and_nothing_else() {
    let api = Api::new().await;
    for name in ["mallory", "Ann", "ann.example", ""] {
        let mut client = api.connect(&api.client(name, |_| {})).await.unwrap();
        let answer = client.ask("GET /who", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains("[[api.clients]]"), "{answer}");
        assert!(client.ask("GET /who", "").await.is_err(), "one answer");
    }
}

#[tokio::test]
async fn no_certificate_a_strangers_and_an_expired_one_are_refused_before_anything_is_asked() {
    let api = Api::new().await;
    let nameless = nameless_client(authorities(&api.at("ca.pem")).unwrap()).unwrap();
    let (stranger, forger) = (authority("a stranger"), authority("ours"));
    for (client, why) in [
        (nameless, "CertificateRequired"),
        (api.client_of(&stranger, "ann", |_| {}), "UnknownCA"),
        (api.client_of(&forger, "ann", |_| {}), "DecryptError"),
        (
            api.client("ann", |params| {
                params.not_before = date_time_ymd(2000, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 1);
            }),
            "CertificateExpired",
        ),
        (
            api.client("ann", |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "",
        ),
    ] {
        let error = api.who(&client).await.unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    // Who wants no TLS gets no HTTP either.
    let mut plain = TcpStream::connect(api.address).await.unwrap();
    plain.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    let _ = tokio::time::timeout(LONG, plain.read_to_end(&mut told)).await.unwrap();
    assert!(!String::from_utf8_lossy(&told).contains("HTTP"), "{told:?}");
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_does() {
    let api = Api::new().await;
    let soon = SystemTime::now() + Duration::from_secs(4);
    let client = api.client("ann", |params| params.not_after = soon.into());
    let mut client = api.connect(&client).await.unwrap();
    assert!(client.ask("GET /who", "").await.unwrap().contains("ann"));
    assert!(client.answer().await.is_err());
}

#[tokio::test]
async fn those_who_say_nothing_keep_nobody_else_out() {
    let api = Api::new().await;
    let ann = api.client("ann", |_| {});
    let mut mute = Vec::new();
    for _ in 0..STRANGERS_MAX {
        mute.push(TcpStream::connect(api.address).await.unwrap());
    }
    let ended = tokio::time::timeout(LONG, async { while api.who(&ann).await.is_ok() {} });
    ended.await.expect("the network's places are taken");
    // Another network's aren't.
    let other = TcpSocket::new_v4().unwrap();
    other.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let other = other.connect(api.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let other = TlsConnector::from(Arc::new(ann.clone())).connect(name, other).await.unwrap();
    let answer = Client(other).ask("GET /who", "").await.unwrap();
    assert!(answer.ends_with("from 127.0.0.2"), "{answer}");
    // Nobody is waited for longer than this.
    for mut stream in mute {
        let mut nothing = Vec::new();
        let ended = tokio::time::timeout(HANDSHAKE_LIMIT * 3, stream.read_to_end(&mut nothing));
        let _ = ended.await.expect("it is ended");
    }
    assert!(api.who(&ann).await.is_ok());
}

#[tokio::test]
async fn one_client_has_so_many_connections_and_the_others_theirs() {
    let api = Api::new().await;
    let ann = api.client("ann", |_| {});
    let bob = api.client("bob.example", |_| {});
    let mut all = Vec::new();
    for _ in 0..OF_A_CLIENT_MAX {
        let mut one = api.connect(&ann).await.unwrap();
        one.ask("GET /who", "").await.unwrap();
        all.push(one);
    }
    let answer = api.who(&ann).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.contains("ann has 16"), "{answer}");
    assert!(api.who(&bob).await.unwrap().starts_with("HTTP/1.1 200 "));
    drop(all);
    let freed = tokio::time::timeout(LONG, async {
        while !api.who(&ann).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")) {}
    });
    freed.await.expect("places of connections that are gone are free");
}

#[tokio::test]
async fn requests_have_an_end() {
    let api = Api::new().await;
    let ann = api.client("ann", |_| {});
    let mut client = api.connect(&ann).await.unwrap();
    let good = client.ask("POST /take", &"x".repeat(100_000)).await.unwrap();
    assert!(good.ends_with("\r\n\r\n100000"), "{good}");
    let head =
        format!("POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", u64::MAX / 2);
    client.0.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'x'; 1 << 16];
    let mut sent = 0;
    // It may be told before all of that is taken, and needn't take any more.
    while sent < 2 * REQUEST_BYTES_MAX && client.0.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    let answer = client.answer().await;
    assert!(answer.is_err() || answer.unwrap().starts_with("HTTP/1.1 400 "));
    let mut client = api.connect(&ann).await.unwrap();
    let head = format!("GET /who HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_BYTES_MAX));
    let _ = client.0.write_all(head.as_bytes()).await;
    let answer = client.answer().await;
    assert!(answer.is_err() || answer.unwrap().starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn renewed_files_are_used_and_broken_ones_said_while_the_former_serve() {
    let api = Api::new().await;
    let ann = api.client("ann", |_| {});
    assert!(api.who(&ann).await.is_ok());
    let look_again = async || api.door.read.lock().await.1 = None;
    std::fs::write(api.at("server.key"), "no key").unwrap();
    look_again().await;
    assert!(api.who(&ann).await.is_ok());
    let warnings = api.door.troubles.warnings();
    assert!(warnings[0].contains("server.key"), "{warnings:?}");
    let exposed = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(api.at("server.key"), exposed).unwrap();
    assert!(matches!(load(&api.door.config), Err(TlsError::Exposed(_))));
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    for (until, said) in [(now - day, "has expired"), (now + 3 * day, "expires within 72 h")] {
        certify(api.directory.path(), "server", &api.authority, |params| {
            params.not_after = until.into();
        });
        let (_, warning) = load(&api.door.config).unwrap().unwrap();
        assert!(warning.as_ref().is_some_and(|why| why.contains(said)), "{warning:?}");
    }
    // Another authority is whom clients are believed by from then on, and nobody whom the former one has let in.
    let next = authority("next");
    certify(api.directory.path(), "server", &next, |params| {
        params.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())];
    });
    std::fs::write(api.at("ca.pem"), next.pem()).unwrap();
    look_again().await;
    assert!(api.who(&ann).await.is_err());
    assert!(api.who(&api.client_of(&next, "ann", |_| {})).await.is_ok());
    assert!(api.door.troubles.warnings().is_empty());
    std::fs::write(api.at("ca.pem"), "").unwrap();
    assert!(matches!(load(&api.door.config), Err(TlsError::NoCertificate(_))));
    std::fs::remove_file(api.at("ca.pem")).unwrap();
    let why = load(&api.door.config).unwrap_err().to_string();
    assert!(why.contains("ca.pem"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_tried_again() {
    let api = Api::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = ApiConfig { listen: vec![address], ..api.door.config.clone() };
    let troubles = untold();
    let router = Router::new().route("/who", get(async || "main"));
    let server = serve(config, router, Handle::current(), Arc::clone(&troubles)).unwrap();
    let wait = async |done: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    wait(&|| troubles.warnings().iter().any(|why| why.contains("can't be listened on"))).await;
    drop(taken);
    wait(&|| troubles.warnings().is_empty()).await;
    let ann = api.client("ann", |_| {});
    let there = Api { address, ..api };
    assert!(there.who(&ann).await.unwrap().ends_with("\r\n\r\nmain"));
    drop(server);
    wait(&|| std::net::TcpStream::connect(address).is_err()).await;
    assert!(
        serve(ApiConfig::default(), Router::new(), Handle::current(), troubles).unwrap().is_none()
    );
}
