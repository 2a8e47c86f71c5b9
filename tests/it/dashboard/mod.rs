//! The dashboard in a real browser: what a person sees and does.

mod acts;
mod page;
mod sees;

use crate::support::app::TestApp;
use crate::support::browser::Browser;

const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (360, 740);

/// The page, once it is live.
async fn dashboard(app: &TestApp, size: (u32, u32)) -> Browser {
    let browser = Browser::open(&format!("{}/dashboard", app.base), size).await;
    browser.says("#connection", "Live").await;
    browser
}

/// The begin of a selector of the row of dead letters.
const DEAD: &str = "#dead tr";
