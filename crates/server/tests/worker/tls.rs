//! TLS, with a client that checks the certificate. `tls/` holds one for localhost that is valid for a hundred years, of `openssl req -x509`.
use crate::client::{connect, send};
use crate::execute::job;
use crate::server::{Server, options};
use server::{Tls, TlsError};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const CERTIFICATE: &[u8] = include_bytes!("tls/cert.pem");
const KEY: &[u8] = include_bytes!("tls/key.pem");

fn client(server: &Server, name: &'static str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE).unwrap()).unwrap();
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, connect(server.address))
}

#[test]
fn answers_stream_over_tls_and_nothing_goes_around_it() {
    let tls = Some(Tls::new(CERTIFICATE, KEY).unwrap());
    let server =
        Server::listening(server::Options { tls, ..options() }, "one", 1000, false, || Ok(()));
    server.wait_until_ready();
    let body = job("j", 20).to_string();
    let answer = send(client(&server, "localhost"), "POST /execute", "", &body);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.events().last().unwrap().data["tokens_out"], 20);
    let mut other = client(&server, "elsewhere.example");
    let error = other.write_all(b"GET /ready HTTP/1.1\r\n\r\n").unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let mut plain = connect(server.address);
    plain.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // An alert, or nothing.
    drop(plain.read_to_end(&mut said));
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
}

#[test]
fn files_that_are_no_certificate_and_key_are_refused() {
    assert!(matches!(Tls::new(b"", KEY), Err(TlsError::Certificate(_))));
    assert!(matches!(Tls::new(KEY, KEY), Err(TlsError::Certificate(_))));
    assert!(matches!(Tls::new(CERTIFICATE, CERTIFICATE), Err(TlsError::Key(_))));
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(Tls::new(broken, KEY), Err(TlsError::Unusable(_))));
}
