//! The description and its page. That every route is described is a test beside the routes.
use crate::loopback::Server;
use serde_json::Value;

#[test]
fn described_methods_are_answered_and_others_are_not() {
    let server = Server::start();
    let document: Value = server.get("/openapi.json").json(200);
    // The one that ends the server comes last.
    let mut paths: Vec<_> = document["paths"].as_object().unwrap().iter().collect();
    paths.sort_by_key(|(path, _)| *path == "/shutdown");
    for (path, methods) in paths {
        let place = path.replace("{id}", "none");
        for method in ["get", "put", "delete", "patch", "post"] {
            let described = methods.get(method).is_some();
            let status = server.send(&method.to_uppercase(), &place, b"{}").status;
            assert_eq!(status != 405, described, "{method} {path}: {status}");
        }
    }
}

#[test]
fn the_page_loads_only_its_own_files() {
    let server = Server::start();
    let page = server.get("/docs");
    assert!(
        page.head.contains("content-security-policy: default-src 'none'; script-src 'self'"),
        "{}",
        page.head
    );
    for file in ["docs/docs.css", "docs/docs.js"] {
        assert!(page.body.contains(&format!("\"{file}\"")));
        assert_eq!(server.get(&format!("/{file}")).status, 200);
    }
    assert!(
        !page.body.contains("<style") && !page.body.contains("style=") && !page.body.contains("//")
    );
    assert_eq!(server.get("/docs/none").status, 404);
    // A browser sends no key.
    let locked = Server::with(|options| options.key_hashes = vec![[0; 32]]);
    for path in ["/docs", "/docs/docs.js", "/openapi.json"] {
        assert_eq!(locked.get(path).status, 200, "{path}");
    }
}
