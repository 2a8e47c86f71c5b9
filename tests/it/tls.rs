//! A provider behind TLS, with a certificate of a private authority: an own server, so that what is negotiated is
//! what a client finds in the world.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mapx_embeddings::config::embedder::{EmbedderSettings, Provider};
use mapx_embeddings::config::secret::Secret;
use mapx_embeddings::embedder::{EmbedError, Embedder, Purpose, build};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const DIMENSIONS: usize = 4;

struct TlsProvider {
    port: u16,
    /// The protocol version of each call.
    versions: Arc<Mutex<Vec<Version>>>,
    authority: PathBuf,
    _folder: TempDir,
    server: JoinHandle<()>,
}

impl TlsProvider {
    /// Offers `protocols` to its clients, the best first.
    async fn start(protocols: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("authority.pem");
        std::fs::write(&authority, issuer.pem()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
        tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let versions = Arc::<Mutex<Vec<Version>>>::default();
        let server = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), versions.clone()));
        Self { port, versions, authority, _folder: folder, server }
    }

    fn embedder(&self, ca_file: &str) -> Arc<dyn Embedder> {
        let settings = EmbedderSettings {
            provider: Provider::Openai,
            base_url: format!("https://localhost:{}/v1", self.port),
            model: "m".into(),
            dimensions: DIMENSIONS,
            api_key: Secret::new("sk-key"),
            ca_file: ca_file.into(),
            timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            ..EmbedderSettings::default()
        };
        build(&settings).unwrap()
    }

    fn trusting(&self) -> Arc<dyn Embedder> {
        self.embedder(self.authority.to_str().unwrap())
    }

    fn versions(&self) -> Vec<Version> {
        self.versions.lock().unwrap().clone()
    }
}

impl Drop for TlsProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, versions: Arc<Mutex<Vec<Version>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, versions) = (acceptor.clone(), versions.clone());
        tokio::spawn(async move {
            // A client that doesn't trust the certificate breaks off here.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request| answer(request, versions.clone()));
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    versions: Arc<Mutex<Vec<Version>>>,
) -> Result<Response<Body>, Infallible> {
    versions.lock().unwrap().push(request.version());
    let body = axum::body::to_bytes(Body::new(request.into_body()), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let count = body["input"].as_array().unwrap().len();
    let data: Vec<Value> = (0..count).map(|index| json!({ "index": index, "embedding": [1, 2, 3, 4] })).collect();
    let answer = json!({ "data": data, "usage": { "total_tokens": count } });
    Ok(Response::builder().header("content-type", "application/json").body(Body::from(answer.to_string())).unwrap())
}

async fn embed(embedder: &dyn Embedder) -> Result<usize, EmbedError> {
    let texts = ["one".to_owned(), "two".to_owned()];
    let answer = embedder.embed(&texts, Purpose::Document).await?;
    Ok(answer.vectors.into_iter().filter(Result::is_ok).count())
}

#[tokio::test]
async fn http_2_is_spoken_where_it_is_offered() {
    let provider = TlsProvider::start(&["h2", "http/1.1"]).await;
    let embedder = provider.trusting();
    for _ in 0..2 {
        assert_eq!(embed(embedder.as_ref()).await.unwrap(), 2);
    }
    assert_eq!(provider.versions(), [Version::HTTP_2, Version::HTTP_2]);
}

#[tokio::test]
async fn http_1_is_spoken_where_nothing_else_is() {
    for offered in [&["http/1.1"][..], &[]] {
        let provider = TlsProvider::start(offered).await;
        assert_eq!(embed(provider.trusting().as_ref()).await.unwrap(), 2);
        assert_eq!(provider.versions(), [Version::HTTP_11]);
    }
}

#[tokio::test]
async fn an_authority_that_nobody_named_is_not_trusted() {
    let provider = TlsProvider::start(&["h2"]).await;
    let other = TlsProvider::start(&["h2"]).await;
    for ca_file in ["", other.authority.to_str().unwrap()] {
        let error = embed(provider.embedder(ca_file).as_ref()).await.unwrap_err();
        assert!(matches!(error, EmbedError::Transient(_)), "{error:?}");
        let words = error.to_string();
        assert!(words.contains("certificate") && words.contains("embedder.ca_file"), "{words}");
    }
    assert_eq!(provider.versions(), [], "no text was sent");
}
