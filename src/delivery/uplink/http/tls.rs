//! TLS: rustls with ring. Which servers are trusted, which certificate we present, and by which time certificates are checked.
//!
//! The roots are Mozilla's as of the build, the system's own, or those of a file; a pin restricts them to one key. Certificates are checked
//! against the best known calendar ([`Timekeeper`]), not against the current system clock. Sessions are as in `ureq`'s own connector,
//! except for what it has no option for.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use sha2::{Digest, Sha256};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::secret::read_pem;
use crate::platform::calendar::Timekeeper;

/// Where systems store their roots: Debian, Alpine, Yocto; Fedora; others.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The default result of `openssl req -x509`.
const CA_AS_SERVER: &str = "its certificate is a CA certificate (self-signed with CA:TRUE), which a server must not use: make one \
    on the receiver with openssl req -x509 -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:NAME, and set uplink.ca \
    to that file";

const UNUSABLE: &str =
    "its certificate is malformed or has an unknown critical extension: make another one on the receiver";

/// Which roots are trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Roots {
    /// Mozilla's, as of the build.
    #[default]
    Builtin,
    /// The system's own.
    System,
    /// Those of a file.
    File(PathBuf),
}

/// The sha256 of a public key (its SubjectPublicKeyInfo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPin([u8; 32]);

impl KeyPin {
    /// From `sha256//BASE64`, as `curl --pinnedpubkey` has it.
    pub fn parse(text: &str) -> Option<KeyPin> {
        let bytes = BASE64_STANDARD.decode(text.strip_prefix("sha256//")?).ok()?;
        Some(KeyPin(bytes.try_into().ok()?))
    }
}

/// Settings of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsParams {
    /// Which authorities are trusted.
    pub roots: Roots,
    /// Our own certificate with its intermediate certificates, PEM.
    pub client_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub client_key: Option<PathBuf>,
    /// The receiver's key, required in addition to a valid certificate.
    pub pin: Option<KeyPin>,
}

/// Converts the settings to rustls's configuration. Reads the files.
///
/// # Errors
/// Which file, what is wrong with it, and the remedy.
pub(super) fn config(params: &TlsParams, time: &Arc<Timekeeper>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&params.roots)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| format!("uplink.ca: {error}"))?;
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Calendar(Arc::clone(time))))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { inner: verifier, pin: params.pin }));
    let config = match (&params.client_cert, &params.client_key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("uplink.client_cert_file", cert)?;
            let pem = read_pem("uplink.client_key_file", key)?;
            let key_der = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
                format!("uplink.client_key_file {}: no private key in PEM: {error}", key.display())
            })?;
            builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                format!("uplink.client_cert_file {}: it does not fit the key: {error}", cert.display())
            })?
        }
        (Some(_), None) => return Err("uplink.client_cert_file needs uplink.client_key_file".to_owned()),
        (None, Some(_)) => return Err("uplink.client_key_file needs uplink.client_cert_file".to_owned()),
    };
    Ok(Arc::new(config))
}

fn roots(roots: &Roots) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let path = match roots {
        Roots::Builtin => {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            return Ok(store);
        }
        Roots::System => SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()).ok_or(
            "uplink.ca = \"system\": this system has no root certificates: install ca-certificates, or use \"builtin\"",
        )?,
        Roots::File(path) => path.as_path(),
    };
    let (added, _broken) = store.add_parsable_certificates(certificates("uplink.ca", path)?);
    if added == 0 {
        return Err(format!("uplink.ca {}: none of its certificates is usable", path.display()));
    }
    Ok(store)
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_pem(setting, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("{setting} {}: it contains no PEM certificate", path.display())),
        Err(error) => Err(format!("{setting} {}: {error}", path.display())),
    }
}

/// The time source for rustls.
struct Calendar(Arc<Timekeeper>);

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calendar")
    }
}

impl TimeProvider for Calendar {
    fn current_time(&self) -> Option<UnixTime> {
        let nanos = u64::try_from(self.0.wall().unix_nanos).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(nanos)))
    }
}

/// The usual verification, and the pin.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    pin: Option<KeyPin>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if let Some(KeyPin(pin)) = self.pin {
            let malformed = |_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
            let key =
                webpki::EndEntityCert::try_from(end_entity).map_err(malformed)?.subject_public_key_info();
            if Sha256::digest(key)[..] != pin {
                let other = CertificateError::ApplicationVerificationFailure;
                return Err(rustls::Error::InvalidCertificate(other));
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Remedy for a TLS error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The certificate dates do not match, and our clock is not synchronised.
    Clock,
    /// Needs action by a person; the text names it.
    Person(&'static str),
    /// Temporary.
    Retry,
}

/// The remedy for a rustls error; `synchronised`: our clock can be trusted.
#[allow(clippy::wildcard_enum_match_arm, reason = "rustls' errors are open-ended")]
pub(super) fn remedy(error: &rustls::Error, synchronised: bool) -> Remedy {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. }
                if !synchronised =>
            {
                Remedy::Clock
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                Remedy::Person("its certificate has expired: renew it on the receiver")
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                Remedy::Person("its certificate is not valid yet: check both clocks")
            }
            Bad::UnknownIssuer => Remedy::Person(
                "its certificate is signed by no trusted authority: set uplink.ca to the file of its root",
            ),
            Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => Remedy::Person(
                "its certificate names no host: make one on the receiver with -addext subjectAltName=DNS:NAME (or IP:ADDRESS)",
            ),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                Remedy::Person("its certificate is for another name: use that name in uplink.target")
            }
            Bad::ApplicationVerificationFailure => Remedy::Person(
                "its key is not the one of uplink.pin: was it renewed, or is there an interception?",
            ),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => Remedy::Person(
                "its certificate is not for servers: make one on the receiver with -addext extendedKeyUsage=serverAuth",
            ),
            Bad::Revoked => Remedy::Person("its certificate is revoked: renew it on the receiver"),
            Bad::BadSignature
            | Bad::UnsupportedSignatureAlgorithmContext { .. }
            | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Remedy::Person(
                "its certificate has an unsupported signature: renew it on the receiver with SHA-256 and RSA of 2048 bits \
                 or more, or ECDSA P-256",
            ),
            Bad::Other(other) => Remedy::Person(match other.0.downcast_ref() {
                Some(webpki::Error::CaUsedAsEndEntity) => CA_AS_SERVER,
                Some(webpki::Error::UnsupportedCertVersion) => {
                    "its certificate is of X.509 version 1: make one of version 3 on the receiver, with a subjectAltName"
                }
                _ => UNUSABLE,
            }),
            _ => Remedy::Person(UNUSABLE),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired if !synchronised => Remedy::Clock,
            AlertDescription::CertificateExpired => {
                Remedy::Person("it says that our certificate has expired: renew it")
            }
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => Remedy::Person(
                "it does not take our certificate: check uplink.client_cert_file and its root on the receiver",
            ),
            _ => Remedy::Retry,
        },
        _ => Remedy::Retry,
    }
}

/// The rustls error inside an error of the client.
#[allow(clippy::wildcard_enum_match_arm, reason = "ureq's errors are open-ended")]
pub(super) fn cause(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(inner) => Some(inner),
        ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
        _ => None,
    }
}

/// Wraps a connection in TLS, as `ureq`'s own connector does, with our settings.
pub(super) struct Tls(pub(super) Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Encrypted>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Err(ureq::Error::ConnectionFailed) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| ureq::Error::Tls("not a name of a host"))?;
        let mut conn = ClientConnection::new(Arc::clone(&self.0), name)?;
        let mut sock = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        sock.set_timeout(details.timeout); // One deadline for the whole handshake, however slowly its bytes arrive.
        conn.complete_io(&mut sock).map_err(unwrapped)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(Encrypted { buffers, stream: StreamOwned { conn, sock } })))
    }
}

/// The rustls error inside an I/O error.
fn unwrapped(error: std::io::Error) -> ureq::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) => ureq::Error::Rustls(inner.clone()),
        None => ureq::Error::from(error),
    }
}

/// A connection with TLS.
pub(super) struct Encrypted {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encrypted")
    }
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output).map_err(unwrapped)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input).map_err(unwrapped)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::SystemClock;

    /// The remedy for a server's certificate if it is the only trusted one.
    fn warning_of(params: &rcgen::CertificateParams, name: &str) -> Option<&'static str> {
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("root.pem");
        std::fs::write(&file, certificate.pem()).unwrap();
        let roots = Arc::new(roots(&Roots::File(file)).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider).build().unwrap();
        let time = Calendar(Arc::new(Timekeeper::new(Arc::new(SystemClock)))).current_time().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let verified =
            Verifier { inner, pin: None }.verify_server_cert(certificate.der(), &[], &name, &[], time);
        match remedy(&verified.err()?, true) {
            Remedy::Person(what) => Some(what),
            Remedy::Clock | Remedy::Retry => panic!("a person is needed"),
        }
    }

    #[test]
    fn advice_on_certificates_names_what_is_wrong() {
        use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa};
        let params = |names: &[&str]| {
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        let mut plain = params(&["counter.example"]);
        plain.is_ca = IsCa::ExplicitNoCa;
        assert_eq!(warning_of(&plain, "counter.example"), None, "self-signed with CA:FALSE works");
        let mut ca = plain.clone();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert!(warning_of(&ca, "counter.example").unwrap().contains("CA:FALSE"));
        assert!(warning_of(&plain, "other.example").unwrap().contains("another name"));
        assert!(warning_of(&params(&[]), "counter.example").unwrap().contains("subjectAltName"));
        let mut client = plain;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        assert!(warning_of(&client, "counter.example").unwrap().contains("serverAuth"));
    }
}
