//! HTTP and HTTPS: one POST per batch. The only folder that uses `ureq`; every option is set explicitly.
//!
//! Every phase has a deadline, and so has the whole request; no proxy is taken from the environment; a redirect is a response, not an
//! instruction; a pooled connection is closed before a firewall forgets it; at most [`REPLY_BYTES_MAX`] of a response body are read.
//! Tokens, keys and certificates come from files, are read again after the receiver has refused them, and are never shown. [`tls`] decides
//! which servers are trusted, `connect.rs` how they are reached, `response.rs` which responses confirm a batch. Never retries by itself: that
//! is the session's decision.

mod connect;
mod gzip;
mod response;
mod retry_after;
mod secret;
mod target;
pub mod tls;
mod unfold;

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue, Response, Uri, header};
use ureq::unversioned::transport::{ConnectProxyConnector, ConnectionDetails, Connector, Either, Transport};

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::REPLY_BYTES_MAX;
use crate::delivery::uplink::format::Format;
use crate::delivery::uplink::session::Failure;
use crate::delivery::uplink::{Batch, Interrupt, SendError, Sink};
use crate::event::Event;
use crate::platform::calendar::Timekeeper;
use connect::{Lookups, NotConnected, Tcp, Waits};
use gzip::Gzip;
use response::{CUT_RESPONSES_MAX, Confirmation, ReceiverResponse, Sent};
use secret::{Scheme, read_token};
use target::{address, is_loopback};
use tls::{Remedy, TlsParams};

pub use target::{InfluxTarget, redacted};

/// Longest response header, bytes: proxies and login pages add long cookies. A confirmation with a longer one would be ignored, and its
/// batch sent for ever.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Buffer for sending, bytes; a larger body is sent in pieces.
const OUTPUT_BYTES: usize = 32 << 10;

/// Characters of a response body that an error shows.
const HINT_CHARS_MAX: usize = 120;

/// Time limit of each phase of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Looking the host up.
    pub resolve: Duration,
    /// Connecting, TLS included.
    pub connect: Duration,
    /// Sending the request headers.
    pub send_request: Duration,
    /// Sending the body: a full batch of about 500 kB over a bad mobile link.
    pub send_body: Duration,
    /// From the end of the request to the end of the response headers.
    pub response: Duration,
    /// Receiving the response body.
    pub reply_body: Duration,
    /// The whole request.
    pub whole: Duration,
    /// How long an idle connection may be reused. Mobile carriers and firewalls forget one silently after minutes, many servers close it
    /// after 5 to 60 s.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(15),
            send_request: Duration::from_secs(10),
            send_body: Duration::from_secs(60),
            response: Duration::from_secs(30),
            reply_body: Duration::from_secs(5),
            whole: Duration::from_secs(90),
            idle: Duration::from_secs(15),
        }
    }
}

/// Where and how to send.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpParams {
    /// `http://` or `https://`, without user and password.
    pub url: String,
    /// The encoding that the receiver accepts.
    pub format: Format,
    /// Where InfluxDB stores the events.
    pub influx: InfluxTarget,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// A file, or `credential:NAME`, whose text is sent as the token.
    pub token_file: Option<PathBuf>,
    /// Trusted roots, and this device's own certificate.
    pub tls: TlsParams,
    /// `http://HOST:PORT` of a proxy that tunnels (`CONNECT`).
    pub proxy: Option<String>,
    /// The deadlines.
    pub deadlines: Deadlines,
}

/// Posts batches to a URL.
pub struct HttpSink {
    params: HttpParams,
    waits: Waits,
    /// `None`: its files must be read again.
    agent: Option<ureq::Agent>,
    uri: Uri,
    /// The URL without its query.
    name: String,
    /// `Bearer …`; `None`: none is configured, or it must be read again.
    authorization: Option<HeaderValue>,
    whole: Duration,
    body: Vec<u8>,
    gzip: Option<Gzip>,
    reply: Vec<u8>,
    /// Truncated 2xx responses in a row.
    cut_responses: u32,
    /// The events of one bucket, while they are sent.
    part: Vec<Event>,
}

impl HttpSink {
    /// Checks the URL, reads the token and the certificates. Does not connect. Certificates are checked against `time`.
    ///
    /// # Errors
    /// [`Kind::Config`], with the remedy: a scheme other than HTTP, no host, a user or password in the URL, a file that cannot be read or
    /// has invalid contents.
    pub fn new(params: HttpParams, time: Arc<Timekeeper>) -> Result<Self> {
        let url = &params.url;
        let uri = address(url, params.format, &params.influx).map_err(|problem| {
            Error::fatal(Kind::Config, format!("uplink URL '{}': {problem}", redacted(url)))
        })?;
        let query = if uri.query().is_some() { "?…" } else { "" };
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let name = format!("{scheme}://{authority}{}{query}", uri.path());
        if params.token_file.is_some() && scheme == "http" && !is_loopback(&uri) {
            tracing::warn!("the token for {name} is sent unencrypted: use https://");
        }
        let mut sink = HttpSink {
            waits: Waits { time, interrupt: Arc::new(OnceLock::new()) },
            agent: None,
            uri,
            name,
            authorization: None,
            whole: params.deadlines.whole,
            body: Vec::new(),
            gzip: params.gzip.then(Gzip::new),
            reply: Vec::with_capacity(REPLY_BYTES_MAX as usize),
            cut_responses: 0,
            part: Vec::new(),
            params,
        };
        sink.read_files().map_err(|text| Error::fatal(Kind::Config, text))?;
        Ok(sink)
    }

    /// Reads the files that are not loaded, or have to be read again.
    fn read_files(&mut self) -> Result<(), String> {
        if let (Some(path), None) = (&self.params.token_file, &self.authorization) {
            let scheme = match self.params.format {
                Format::CloudEvents | Format::Packed | Format::Packed2 | Format::Packed3 => Scheme::Bearer,
                Format::Influx1 => Scheme::Basic,
                Format::Influx2 => Scheme::Token,
            };
            self.authorization = Some(read_token(path, scheme)?);
        }
        if self.agent.is_none() {
            self.agent = Some(agent(&self.params, &self.uri, &self.waits)?);
        }
        Ok(())
    }

    /// Posts the batch to `bucket`, or to the uplink's own, and waits for the confirmation.
    fn send_to(&mut self, batch: &Batch<'_>, bucket: Option<&str>) -> Result<(), SendError> {
        let uri = match bucket {
            None => self.uri.clone(),
            Some(bucket) => self.address_of(bucket).map_err(SendError::misconfigured)?,
        };
        let response = self.post(batch, &uri)?;
        if response.status().is_success() { self.confirmed(response) } else { Err(self.refusal(response)) }
    }

    fn address_of(&self, bucket: &str) -> Result<Uri, String> {
        let HttpParams { url, format, influx, .. } = &self.params;
        let influx =
            InfluxTarget { database: bucket.to_owned(), bucket: bucket.to_owned(), ..influx.clone() };
        address(url, *format, &influx).map_err(|problem| format!("uplink URL '{}': {problem}", redacted(url)))
    }

    fn post(&mut self, batch: &Batch<'_>, uri: &Uri) -> Result<Response<ureq::Body>, SendError> {
        self.read_files().map_err(SendError::misconfigured)?;
        let Some(agent) = &self.agent else { return Err(SendError::retry("no client")) };
        let format = self.params.format;
        format.write(batch, &mut self.body);
        let mut request = agent
            .post(uri)
            .header(header::CONTENT_TYPE, format.content_type())
            .header("Idempotency-Key", batch.id().to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let mut body = &self.body[..];
        if let Some(gzip) = &mut self.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
            body = gzip.pack(body);
        }
        let request = request.config().timeout_global(Some(self.whole)).build();
        let sent = request.send(body);
        sent.map_err(|error| self.failed(&error))
    }

    /// The error when no response arrived.
    fn failed(&mut self, error: &ureq::Error) -> SendError {
        // The client's own error text for these begins with "io: ".
        let place = if let ureq::Error::Io(inner) = error {
            format!("POST {}: {inner}", self.name)
        } else {
            format!("POST {}: {error}", self.name)
        };
        let Some(inner) = tls::cause(error) else {
            let kept_here = never_left(error);
            return SendError { kept_here, ..SendError::retry(format!("{place}: {}", remedy_for(error))) };
        };
        let trusted = self.waits.time.sample().wall.is_trusted();
        self.agent = None; // Certificates may have been renewed: read them again before the next attempt.
        // Nothing is sent before the handshake is done.
        let error = match tls::remedy(inner, trusted) {
            Remedy::Clock => SendError::retry(format!(
                "{place}: this device's clock is not synchronised, so the certificate's dates cannot be checked: \
                 let it reach a time server"
            )),
            Remedy::Person(what) => SendError::misconfigured(format!("{place}: {what}")),
            Remedy::Retry => {
                return SendError::retry(format!("{place}: check that this port uses TLS, and the link"));
            }
        };
        SendError { kept_here: true, ..error }
    }

    /// Whether a 2xx confirms the batch.
    fn confirmed(&mut self, mut response: Response<ureq::Body>) -> Result<(), SendError> {
        let status = response.status();
        let cut = self.read_reply(response.body_mut());
        let content_type = text_of(&response, &header::CONTENT_TYPE).unwrap_or_default();
        let parsed = ReceiverResponse { status: status.as_u16(), content_type, body: &self.reply, cut };
        let confirmation = response::confirmation(&parsed, self.params.format);
        let cut_before = std::mem::take(&mut self.cut_responses);
        let place = format!("POST {}: {status}", self.name);
        let error = match confirmation {
            Confirmation::Yes => return Ok(()),
            Confirmation::Cut if cut_before + 1 >= CUT_RESPONSES_MAX => {
                tracing::warn!(
                    "{place}: its response ended early {CUT_RESPONSES_MAX} times in a row: taken as a confirmation"
                );
                return Ok(());
            }
            Confirmation::Cut => {
                self.cut_responses = cut_before + 1;
                SendError::retry(format!("{place}: its response ended early: it may report a failure"))
            }
            Confirmation::No(why) => SendError::misconfigured(format!("{place}{}: {why}", self.quote())),
        };
        Err(SendError { status: Some(status.as_u16()), ..error })
    }

    /// An excerpt of the response, without our own secret if it repeats it.
    fn quote(&self) -> String {
        let secret =
            self.authorization.as_ref().and_then(|value| value.to_str().ok()?.split(' ').next_back());
        let hint = hint(&self.reply, secret.unwrap_or_default());
        if hint.is_empty() { hint } else { format!(" '{hint}'") }
    }

    /// The error for a response other than 2xx.
    fn refusal(&mut self, mut response: Response<ureq::Body>) -> SendError {
        let status = response.status();
        self.cut_responses = 0;
        self.read_reply(response.body_mut());
        let quote = self.quote();
        let wall = self.waits.time.wall();
        let now = wall.is_trusted().then_some(wall.unix_nanos / 1_000_000_000);
        let after = text_of(&response, &header::RETRY_AFTER)
            .and_then(|value| retry_after::delay(value, text_of(&response, &header::DATE), now));
        let sent = Sent { format: self.params.format, gzip: self.params.gzip };
        let (failure, remedy) = response::refusal(status.as_u16(), after, sent, &quote.to_ascii_lowercase());
        if failure == Failure::Misconfigured {
            // Token or certificate may have been renewed: read them again before the next attempt.
            (self.authorization, self.agent) = (None, None);
        }
        let mut text = format!("POST {}: {status}{quote}: {remedy}", self.name);
        if let Some(to) = response.headers().get(header::LOCATION).filter(|_| status.is_redirection()) {
            // It may contain a user and a password, even if it is not a valid URL.
            let to = hint_of(String::from_utf8_lossy(to.as_bytes()).chars());
            let to = redacted(to.rsplit('@').next().unwrap_or_default());
            text = format!("{text} (it points to {to})");
        }
        SendError { failure, status: Some(status.as_u16()), text, kept_here: false }
    }

    /// Reads the response body up to the limit and leaves the rest: the connection is reused only if nothing was left. Returns whether it
    /// ended before its framing said so.
    fn read_reply(&mut self, body: &mut ureq::Body) -> bool {
        self.reply.clear();
        let mut limited = body.as_reader().take(REPLY_BYTES_MAX);
        let outcome = limited.read_to_end(&mut self.reply);
        if let Err(error) = &outcome {
            tracing::debug!("the response of {} ended early: {error}", self.name);
        }
        outcome.is_err()
    }
}

/// The value of a header, if it is text.
fn text_of<'a>(response: &'a Response<ureq::Body>, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

impl Sink for HttpSink {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        if !batch.events.iter().any(|event| self.params.format.holds(event)) {
            // Nothing that this receiver's format has a word for.
            return Ok(());
        }
        let labels = batch.labels;
        let has_buckets = self.params.format.has_buckets() && labels.buckets().next().is_some();
        if !has_buckets {
            return self.send_to(batch, None);
        }
        // One request for each bucket. If one fails all are repeated: InfluxDB stores an event that it has once.
        let mut kept_here = true;
        let mut part = std::mem::take(&mut self.part);
        for bucket in std::iter::once(None).chain(labels.buckets().map(Some)) {
            part.clear();
            let is_its = |event: &&Event| labels.bucket(&event.camera) == bucket;
            part.extend(batch.events.iter().filter(is_its).cloned());
            if part.is_empty() {
                continue;
            }
            let sent = self.send_to(&Batch { events: &part, ..*batch }, bucket);
            if let Err(error) = sent {
                self.part = part;
                return Err(SendError { kept_here: error.kept_here && kept_here, ..error });
            }
            kept_here = false;
        }
        self.part = part;
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn reserve(&mut self, events: usize) {
        let bytes = self.params.format.bytes_for(events);
        self.body.reserve(bytes);
        if let Some(gzip) = &mut self.gzip {
            gzip.reserve(bytes);
        }
        if self.params.format.has_buckets() {
            self.part.reserve(events);
        }
    }

    fn needs_time(&self) -> bool {
        self.params.format.needs_time()
    }

    fn limit_sends(&mut self, longest: Duration) {
        self.whole = self.whole.min(longest);
    }

    fn interrupt_when(&mut self, interrupt: Interrupt) {
        // Set once, by the uplink that owns this sink.
        let _set = self.waits.interrupt.set(interrupt);
    }
}

/// The client, with every option set explicitly.
fn agent(params: &HttpParams, uri: &Uri, waits: &Waits) -> Result<ureq::Agent, String> {
    let proxy = match &params.proxy {
        // With any other kind the connection would bypass it.
        Some(url) => Some(
            Some(url)
                .filter(|url| url.starts_with("http://"))
                .and_then(|url| ureq::Proxy::new(url).ok())
                .ok_or_else(|| format!("uplink.proxy '{}': write it like http://host:port", redacted(url)))?,
        ),
        None => None,
    };
    let deadlines = &params.deadlines;
    let config = ureq::Agent::config_builder()
        .timeout_resolve(Some(deadlines.resolve))
        .timeout_connect(Some(deadlines.connect))
        .timeout_send_request(Some(deadlines.send_request))
        .timeout_await_100(Some(deadlines.send_request)) // We never request a 100; if that changes, the wait is bounded.
        .timeout_send_body(Some(deadlines.send_body))
        .timeout_recv_response(Some(deadlines.response))
        .timeout_recv_body(Some(deadlines.reply_body))
        .timeout_per_call(Some(deadlines.whole))
        .timeout_global(Some(deadlines.whole))
        .max_idle_age(deadlines.idle)
        .max_idle_connections(1)
        .max_idle_connections_per_host(1)
        .max_redirects(0)
        .max_response_header_size(HEAD_BYTES_MAX)
        .input_buffer_size(HEAD_BYTES_MAX)
        .output_buffer_size(OUTPUT_BYTES)
        .no_delay(true)
        .proxy(proxy)
        .http_status_as_error(false)
        .user_agent(concat!("flytrap/", env!("CARGO_PKG_VERSION")))
        .build();
    let connector = ()
        .chain(ConnectProxyConnector::default())
        .chain(Tcp::new(waits.clone()))
        .chain(tls::Tls(tls::config(&params.tls, &waits.time)?))
        .chain(Unfolds { target: uri.authority().map_or_else(String::new, ToString::to_string) });
    Ok(ureq::Agent::with_parts(config, connector, Lookups::new(waits.clone())))
}

/// Whether a send failed before any part of the batch was sent.
#[allow(clippy::wildcard_enum_match_arm, reason = "ureq's errors are open-ended")]
fn never_left(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => {
            true
        }
        ureq::Error::Timeout(phase) => matches!(phase, ureq::Timeout::Resolve | ureq::Timeout::Connect),
        ureq::Error::Io(error) => not_connected(error).is_some(),
        _ => false,
    }
}

/// The connection error inside an I/O error.
fn not_connected(error: &std::io::Error) -> Option<&NotConnected> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// The remedy for an error of the client.
#[allow(clippy::wildcard_enum_match_arm, reason = "ureq's errors are open-ended")]
fn remedy_for(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::HostNotFound => "check the host's name and this device's DNS",
        ureq::Error::Timeout(ureq::Timeout::Resolve) => "check this device's DNS",
        ureq::Error::Timeout(ureq::Timeout::Connect) => "check the link, the port and the firewalls",
        ureq::Error::Timeout(_) => "the link or the receiver is too slow",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "check the receiver's certificate",
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            "no HTTP/1.1 server responds there: check the port"
        }
        ureq::Error::Io(error) => {
            not_connected(error).map_or("check the link and whether the receiver runs", |inner| inner.remedy)
        }
        _ => "check the link and whether the receiver runs",
    }
}

/// Unfolds the headers of the target's responses, but not the data that a proxy tunnels.
#[derive(Debug)]
struct Unfolds {
    /// Host and port.
    target: String,
}

impl<In: Transport> Connector<In> for Unfolds {
    type Out = Either<In, unfold::Unfolded<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Err(ureq::Error::ConnectionFailed) };
        if details.uri.authority().is_none_or(|authority| authority.as_str() != self.target) {
            return Ok(Some(Either::A(transport)));
        }
        let config = details.config;
        let sizes = (config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(unfold::Unfolded::new(transport, sizes))))
    }
}

/// The start of a response body in a form that is safe in a log line.
fn hint(reply: &[u8], secret: &str) -> String {
    let mut text = String::from_utf8_lossy(reply);
    if !secret.is_empty() && text.contains(secret) {
        text = text.replace(secret, "…").into();
    }
    hint_of(text.chars())
}

fn hint_of(chars: impl Iterator<Item = char>) -> String {
    let printable = chars.map(|c| if c.is_control() { ' ' } else { c });
    printable.take(HINT_CHARS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> Arc<Timekeeper> {
        Arc::new(Timekeeper::new(Arc::new(crate::platform::clock::SystemClock)))
    }

    fn refused(url: &str) -> String {
        let params = HttpParams { url: url.into(), ..HttpParams::default() };
        let error = HttpSink::new(params, time()).err().expect(url);
        assert_eq!(error.kind(), Kind::Config);
        error.to_string()
    }

    #[test]
    fn url_errors_are_readable_and_contain_no_secrets() {
        for (url, words) in [
            ("ftp://example.org/", "use http:// or https://"),
            ("/events", "use http:// or https://"),
            ("", "not a URL"),
            ("http://", "not a URL"),
            ("https://joe:hunter2@example.org/events", "token_file"),
            ("https://hunter2@example.org/events?key=hunter2", "token_file"),
            ("ftp://joe:hunter2@example.org/", "use http"),
            ("https://joe:hun ter2/hunter2@example.org/", "not a URL"),
            ("https://exa mple.org/?key=hunter2", "not a URL"),
        ] {
            let text = refused(url);
            assert!(text.contains(words), "{url}: {text}");
            assert!(!text.contains("ter2") && !text.contains("joe"), "{text}");
        }
    }

    #[test]
    fn names_hide_the_query() {
        let url = "https://example.org:8443/api/v2?org=a&token=hunter2".to_owned();
        let sink = HttpSink::new(HttpParams { url, ..HttpParams::default() }, time()).unwrap();
        assert_eq!(sink.name(), "https://example.org:8443/api/v2?…");
    }

    #[test]
    fn hints_are_short_and_printable() {
        assert_eq!(hint(b"  bad\r\n\x1b[31mevent \xff ", ""), "bad   [31mevent \u{fffd}");
        assert_eq!(hint("ä".repeat(500).as_bytes(), "").chars().count(), HINT_CHARS_MAX);
        let echo = hint(b"no: authorization: Bearer s3cret-0123, s3cret-0123", "s3cret-0123");
        assert_eq!(echo, "no: authorization: Bearer …, …", "a server that repeats what it received");
    }
}
