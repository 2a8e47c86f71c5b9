//! A real browser: Debian's `chromium`, driven through the W3C WebDriver protocol of its `chromium-driver`. A test that
//! needs them fails where they are missing; `scripts/test` installs them.

use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::app::{PATIENCE, eventually, install_cryptography};

/// The name of an element's reference in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One page of a browser of its own.
pub struct Browser {
    http: reqwest::Client,
    driver: String,
    session: String,
    child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Opens a page in a window of this size.
    pub async fn open(url: &str, size: (u32, u32)) -> Self {
        Self::open_after(url, size, "").await
    }

    /// The same after a script that runs before those of the page.
    pub async fn open_after(url: &str, size: (u32, u32), script: &str) -> Self {
        install_cryptography();
        let missing = |error| panic!("chromedriver: {error}; apt-get install chromium chromium-driver");
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            // A group of its own: the browser ends with its driver.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(missing);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                let port = line.split_once("successfully on port ").map(|(_, rest)| rest.trim_end_matches('.'));
                if let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) {
                    return port;
                }
            }
            panic!("chromedriver says no port");
        };
        let port = tokio::time::timeout(PATIENCE, port).await.expect("chromedriver starts");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let profile = tempfile::tempdir().expect("a folder");
        let mut browser = Self {
            http: reqwest::Client::builder().timeout(PATIENCE * 2).no_proxy().build().expect("a client"),
            driver: format!("http://127.0.0.1:{port}"),
            session: String::new(),
            child,
            _profile: profile,
        };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().display()));
        arguments.push(format!("--window-size={},{}", size.0, size.1));
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.call(Method::POST, "/session", capabilities).await;
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session"));
        // As narrow as a phone, which no window is.
        let metrics = json!({ "width": size.0, "height": size.1, "deviceScaleFactor": 1, "mobile": false });
        browser.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await;
        browser.post("url", json!({ "url": url })).await;
        browser
    }

    /// The value of a script, a function's body.
    pub async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        eventually(expression, async || (self.run(&script).await == true).then_some(())).await;
    }

    /// Waits until the text of this element has these words.
    pub async fn says(&self, selector: &str, words: &str) {
        let expression =
            format!("document.querySelector({})?.textContent.includes({})", json!(selector), json!(words));
        self.until(&expression).await;
    }

    /// Clicks as a person does: what is hidden or covered can't be clicked.
    pub async fn click(&self, selector: &str) {
        self.until(&format!("document.querySelector({})", json!(selector))).await;
        let element = self.post("element", json!({ "using": "css selector", "value": selector })).await;
        let element = element[ELEMENT].as_str().expect("an element");
        self.post(&format!("element/{element}/click"), json!({})).await;
    }

    /// Presses keys, one after the other; special ones by their code points in the protocol.
    pub async fn press(&self, keys: &str) {
        let presses = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })));
        let presses: Vec<Value> = presses.collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": presses }] });
        self.post("actions", actions).await;
    }

    /// What scripts and the browser itself complained of.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().expect("entries").iter();
        let bad = entries.filter(|entry| ["SEVERE", "WARNING"].contains(&entry["level"].as_str().unwrap_or("")));
        bad.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The addresses of all requests so far.
    pub async fn requests(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({ "type": "performance" })).await;
        let entries = entries.as_array().expect("entries").iter().filter_map(|entry| entry["message"].as_str());
        let messages = entries.filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let sent = messages.filter(|message| message["message"]["method"] == "Network.requestWillBeSent");
        sent.filter_map(|message| message["message"]["params"]["request"]["url"].as_str().map(str::to_owned))
            .collect()
    }

    async fn devtools(&self, name: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": name, "params": parameters })).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, &format!("{}/{path}", self.session), body).await
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let request = self.http.request(method, format!("{}{path}", self.driver)).json(&body);
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let status = answer.status();
        let mut answer: Value = answer.json().await.expect("JSON");
        assert!(status.is_success(), "{path} {body}: {}", answer["value"]["message"]);
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let Some(group) = self.child.id() else { return };
        let kill = std::process::Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status();
        let _ = kill;
        // What it still writes into its profile would be in the way of removing that.
        std::thread::sleep(Duration::from_millis(50));
    }
}
