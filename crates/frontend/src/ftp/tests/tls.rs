//! TLS: with curl as everybody's client, and byte by byte where a client means harm, or breaks off.

use std::process::{Output, Stdio};

use rcgen::{CertificateParams, KeyPair};
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::super::FtpTls;
use super::*;
use ::tls::TlsError;

/// A certificate for this machine that signs itself, in the files of `directory`.
fn certify(directory: &Path) -> KeyFiles {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files =
        KeyFiles { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") };
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

struct Sealed {
    server: Server,
    files: KeyFiles,
    directory: tempfile::TempDir,
}

impl Sealed {
    async fn new(required: bool) -> Sealed {
        let directory = tempfile::tempdir().unwrap();
        let files = certify(directory.path());
        let server = Server::with(|setup| {
            setup.config.tls = Some(if required { FtpTls::Required } else { FtpTls::Offered });
            setup.keys = Some(files.clone());
        });
        let server = server.await.unwrap();
        Sealed { server, files, directory }
    }

    async fn curl(&self, arguments: &[&str], path: &str) -> Output {
        let url = format!("ftp://{}/{path}", self.server.server.address());
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "--cacert"]).arg(&self.files.certificate);
        command.args(arguments).arg(url).stdin(Stdio::null()).output().await.unwrap()
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.files.certificate).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    async fn seal(&self, stream: TcpStream) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        self.connector().connect(name, stream).await.unwrap()
    }

    /// A control connection on which alice has logged in by TLS.
    async fn log_in(&self) -> BufReader<TlsStream<TcpStream>> {
        let mut client = self.server.connect().await;
        client.say("AUTH TLS", 234).await;
        let mut client = BufReader::new(self.seal(client.0.into_inner()).await);
        ask(&mut client, "USER alice", "331").await;
        ask(&mut client, "PASS pass word", "230").await;
        ask(&mut client, "PBSZ 0", "200").await;
        client
    }
}

/// Says something by TLS, and has the answer, which begins like that.
async fn ask(client: &mut BufReader<TlsStream<TcpStream>>, what: &str, code: &str) -> String {
    client.write_all(format!("{what}\r\n").as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    answer(client, code).await
}

async fn answer(client: &mut BufReader<TlsStream<TcpStream>>, code: &str) -> String {
    let mut line = String::new();
    tokio::time::timeout(LONG, client.read_line(&mut line)).await.unwrap().unwrap();
    assert!(line.starts_with(code), "{line:?}, not {code}");
    line
}

/// The data connection that it is told.
async fn data(client: &mut BufReader<TlsStream<TcpStream>>) -> TcpStream {
    let told = ask(client, "EPSV", "229").await;
    let port = told.split('|').nth(3).unwrap().parse::<u16>().unwrap();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

fn bytes() -> Vec<u8> {
    (0..5_000_000u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect()
}

#[tokio::test]
async fn stock_clients_store_and_fetch_by_tls() {
    for (required, how) in [
        (true, ["--ssl-reqd", "--ftp-pasv"]),
        (true, ["--ssl-reqd", "--tls-max=1.2"]),
        (false, ["--ssl-reqd", "--ftp-pasv"]),
        (false, ["--ftp-pasv", "--no-progress-meter"]),
    ] {
        let sealed = Sealed::new(required).await;
        let local = sealed.directory.path().join("local");
        std::fs::write(&local, bytes()).unwrap();
        let how: Vec<&str> = how.iter().flat_map(|option| option.split('=')).collect();
        let alice = [&["-u", "alice:pass word"][..], &how[..]].concat();
        let local = local.to_str().unwrap();
        let stored = sealed.curl(&[&alice[..], &["-T", local]].concat(), "file").await;
        assert!(stored.status.success(), "{stored:?}");
        assert!(sealed.server.read("file") == bytes());
        let fetched = sealed.curl(&alice, "file").await;
        assert!(fetched.status.success() && fetched.stdout == bytes(), "{}", fetched.stdout.len());
        let listed = sealed.curl(&[&alice[..], &["-l"]].concat(), "").await;
        assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "file");
        sealed.server.end().await;
    }
}

#[tokio::test]
async fn where_it_is_required_nothing_is_said_in_clear_but_by_nobody() {
    let sealed = Sealed::new(true).await;
    std::fs::write(sealed.server.path("file"), b"words").unwrap();
    let refused = sealed.curl(&["-u", "alice:pass word", "-v"], "file").await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("AUTH TLS comes first"), "{said}");
    assert!(!said.contains("> PASS"), "{said}");
    assert_eq!(sealed.curl(&[], "file").await.stdout, b"words");
    let mut client = sealed.log_in().await;
    ask(&mut client, "EPSV", "229").await;
    ask(&mut client, "RETR file", "521").await;
    ask(&mut client, "PROT X", "536").await;
    ask(&mut client, "AUTH TLS", "503").await;
    ask(&mut client, "PROT P", "200").await;
    let stream = data(&mut client).await;
    ask(&mut client, "RETR file", "150").await;
    let mut got = Vec::new();
    sealed.seal(stream).await.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"words");
    answer(&mut client, "226").await;
    ask(&mut client, "PROT C", "200").await;
    ask(&mut client, "EPSV", "229").await;
    ask(&mut client, "RETR file", "521").await;
    drop(client);
    sealed.server.end().await;
}

/// Somebody between the two says something in clear that would count as said by who logs in.
#[tokio::test]
async fn nothing_that_was_said_in_clear_counts_as_said_by_tls() {
    let sealed = Sealed::new(false).await;
    let mut client = sealed.server.connect().await;
    client.send("AUTH TLS\r\nUSER alice\r\n").await;
    client.expect(234..=234).await;
    assert_eq!(client.line().await, "", "it is over");
    let mut client = sealed.server.connect().await;
    client.say("USER alice", 331).await;
    client.say("AUTH TLS", 234).await;
    let mut client = BufReader::new(sealed.seal(client.0.into_inner()).await);
    ask(&mut client, "PASS pass word", "503").await;
    drop(client);
    sealed.server.end().await;
}

/// One that is broken off isn't told to have ended, whatever it was.
#[tokio::test]
async fn a_download_that_is_broken_off_has_no_end() {
    let sealed = Sealed::new(true).await;
    std::fs::File::create(sealed.server.path("file")).unwrap().set_len(1 << 30).unwrap();
    let mut client = sealed.log_in().await;
    ask(&mut client, "PROT P", "200").await;
    let stream = data(&mut client).await;
    ask(&mut client, "RETR file", "150").await;
    let mut stream = sealed.seal(stream).await;
    stream.read_exact(&mut [0; 1000]).await.unwrap();
    ask(&mut client, "ABOR", "426").await;
    answer(&mut client, "226").await;
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(read.is_err(), "{read:?}");
    drop(client);
    sealed.server.end().await;
}

/// Whoever can cut a connection can't have half of a file pass for all of it.
#[tokio::test]
async fn an_upload_that_doesnt_say_its_end_isnt_whole() {
    let sealed = Sealed::new(true).await;
    for says_end in [true, false] {
        let mut client = sealed.log_in().await;
        ask(&mut client, "PROT P", "200").await;
        let stream = data(&mut client).await;
        ask(&mut client, "STOR file", "150").await;
        let mut stream = sealed.seal(stream).await;
        stream.write_all(b"words").await.unwrap();
        stream.flush().await.unwrap();
        if says_end {
            stream.shutdown().await.unwrap();
            // Some clients wait for that, and take everything else for a failure.
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the server says the end, too");
        } else {
            stream.into_inner().0.shutdown().await.unwrap();
        }
        answer(&mut client, if says_end { "226" } else { "426" }).await;
        assert_eq!(sealed.server.read("file"), b"words", "what came is kept");
    }
    // One that never agrees on TLS is no upload.
    let mut client = sealed.log_in().await;
    ask(&mut client, "PROT P", "200").await;
    let mut stream = data(&mut client).await;
    ask(&mut client, "STOR other", "150").await;
    stream.write_all(&[0; 100]).await.unwrap();
    answer(&mut client, "426").await;
    assert!(!sealed.server.path("other").exists());
    drop(client);
    sealed.server.end().await;
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_used_and_a_broken_one_said() {
    let sealed = Sealed::new(false).await;
    let alice = ["-u", "alice:pass word", "--ssl-reqd"];
    let former = std::fs::read(&sealed.files.certificate).unwrap();
    assert!(sealed.curl(&alice, "").await.status.success());
    certify(sealed.directory.path());
    assert!(sealed.curl(&alice, "").await.status.success(), "it trusts the new one");
    assert!(std::fs::read(&sealed.files.certificate).unwrap() != former);
    std::fs::write(&sealed.files.key, "no key").unwrap();
    let mut client = sealed.server.connect().await;
    client.say("PBSZ 0", 503).await;
    client.say("AUTH TLS", 431).await;
    client.expect_end().await;
    assert!(matches!(sealed.files.server(), Err(TlsError::File { .. })));
    certify(sealed.directory.path());
    std::fs::write(&sealed.files.certificate, "").unwrap();
    assert!(matches!(sealed.files.server(), Err(TlsError::NoCertificate(_))));
    std::fs::write(&sealed.files.certificate, former).unwrap();
    assert!(matches!(sealed.files.server(), Err(TlsError::Unfit { .. })), "another one's key");
    sealed.server.end().await;
}

#[tokio::test]
async fn without_a_certificate_there_is_no_tls() {
    let server = Server::new(LONG).await;
    let mut client = server.connect().await;
    client.say("AUTH TLS", 502).await;
    client.say("PBSZ 0", 502).await;
    client.say("PROT P", 502).await;
    client.send("FEAT\r\n").await;
    assert!(!client.answer().await.contains("AUTH"));
    drop(client);
    server.end().await;
    let sealed = Sealed::new(false).await;
    let mut client = sealed.server.connect().await;
    client.send("FEAT\r\n").await;
    assert!(client.answer().await.contains("AUTH TLS"));
    for unknown in ["AUTH KERBEROS", "AUTH SSL"] {
        client.say(unknown, 504).await;
    }
    drop(client);
    sealed.server.end().await;
}
