#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use control::alerts::Message;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

fn batch() -> Batch {
    Batch { host: "host".to_owned(), messages: vec![Message::test(7)], lost: 0 }
}

/// Takes one request and answers it; the request.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&request));
        request.extend_from_slice(&some[..count]);
    }
    let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn json_is_posted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
    let hook = WebhookConfig { url, ca: None };
    for (status, good) in [("204 No Content", true), ("500 Oh", false)] {
        let serve = async { answer(listener.accept().await.unwrap().0, status).await };
        let batch = batch();
        let (request, answered) = tokio::join!(serve, post(&hook, &batch));
        assert!(request.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-type: application/json"), "{request}");
        let body = request.split("\r\n\r\n").nth(1).unwrap();
        let sent: Batch = serde_json::from_str(body).unwrap();
        assert_eq!(sent.messages[0], batch.messages[0]);
        assert_eq!(answered.is_ok(), good, "{answered:?}");
    }
}

/// By TLS nobody gets anything but who is who the URL says, by somebody who is trusted.
#[tokio::test]
async fn by_tls_only_the_one_who_is_meant_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (trusted, stranger) = (authority(), authority());
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, trusted.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/secret", listener.local_addr().unwrap());
    let hook = WebhookConfig { url, ca: Some(ca.clone()) };
    for (issuer, name, good) in [
        (&trusted, "127.0.0.1", true),
        (&trusted, "127.0.0.2", false),
        (&stranger, "127.0.0.1", false),
    ] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serve = async {
            let tcp = listener.accept().await.unwrap().0;
            match acceptor.accept(tcp).await {
                Ok(stream) => Some(answer(stream, "200 OK").await),
                Err(_) => None,
            }
        };
        let batch = batch();
        let (request, answered) = tokio::join!(serve, post(&hook, &batch));
        assert_eq!((request.is_some(), answered.is_ok()), (good, good), "{name}: {answered:?}");
        if let Some(request) = request {
            assert!(request.starts_with("POST /secret HTTP/1.1\r\n"), "{request}");
        }
    }
    // What nobody can trust is said, with the file.
    std::fs::write(&ca, "nothing").unwrap();
    let why = post(&hook, &batch()).await.unwrap_err();
    assert!(why.contains("ca.pem holds no certificate"), "{why}");
}
