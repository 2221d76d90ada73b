//! Tags and manifests with their properties: what is shown of them, in which order, page by page.

use serde_json::{Value, json};

use super::harness::{LOGIN_SERVER, OCI_INDEX, OCI_MANIFEST, Registry, image_manifest, sha256};

/// All pages of a listing, by the links; each as the names of its entries.
async fn pages(registry: &Registry, start: &str, kind: &str, name: &str) -> Vec<Vec<String>> {
    let mut path = start.to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = registry.call("GET", &path).await.is(200);
        let body = answer.json();
        let entries = body[kind].as_array().expect("a list");
        let text = |entry: &Value| match name {
            "" => entry.as_str().expect("text").to_owned(),
            name => entry[name].as_str().expect("text").to_owned(),
        };
        pages.push(entries.iter().map(text).collect());
        let link = answer.header("link");
        let Some(next) = link.strip_prefix('<').and_then(|link| link.split_once('>')) else {
            return pages;
        };
        assert_eq!(next.1, "; rel=\"next\"");
        path = next.0.to_owned();
    }
}

#[actix_web::test]
async fn tags_are_listed_by_name_and_by_time() {
    let registry = Registry::start().await;
    let mut digests = Vec::new();
    for tag in ["b", "d", "a", "c"] {
        digests.push(registry.push_image("team/app", tag, tag.as_bytes()).await);
    }
    // Pushed again, a tag is young again.
    registry.push_image("team/app", "b", b"b").await;
    let tags = async |query: &str| {
        let start = format!("/acr/v1/team%2Fapp/_tags?{query}");
        pages(&registry, &start, "tags", "name").await
    };
    assert_eq!(tags("").await, [["a", "b", "c", "d"]]);
    assert_eq!(tags("n=2").await, [["a", "b"], ["c", "d"]]);
    assert_eq!(tags("n=3&last=a&orderby=none").await, [["b", "c", "d"]]);
    assert_eq!(tags("n=2&orderby=timeasc").await, [["d", "a"], ["c", "b"]]);
    assert_eq!(
        tags("n=3&orderby=timedesc").await,
        [vec!["b", "c", "a"], vec!["d"]]
    );
    assert_eq!(tags("n=1&orderby=timedesc&last=a").await, [["d"]]);
    let digest = &digests[1];
    assert_eq!(tags(&format!("digest={digest}")).await, [["d"]]);
    for tag in ["x", "y"] {
        registry.push_image("team/app", tag, b"d").await;
    }
    for order in ["none", "timeasc"] {
        let query = format!("digest={digest}&n=2&orderby={order}");
        assert_eq!(tags(&query).await, [vec!["d", "x"], vec!["y"]], "{order}");
    }
    // A tag that moved away is no tag of the manifest any more.
    registry.push_image("team/app", "x", b"a").await;
    assert_eq!(tags(&format!("digest={digest}")).await, [["d", "y"]]);
    let gone = registry
        .call("GET", "/acr/v1/team/app/_tags?orderby=timedesc&last=none")
        .await;
    gone.refused(400, "PAGINATION_NUMBER_INVALID");
    let unknown = registry.call("GET", "/acr/v1/none/_tags").await;
    unknown.refused(404, "NAME_UNKNOWN");
}

#[actix_web::test]
async fn a_tag_is_shown_with_its_times_and_its_manifest() {
    let registry = Registry::start().await;
    let digest = registry.push_image("app", "v1", b"layer").await;
    let shown = registry
        .call("GET", "/acr/v1/app/_tags/v1")
        .await
        .is(200)
        .json();
    assert_eq!(shown["registry"], LOGIN_SERVER);
    assert_eq!(shown["imageName"], "app");
    let tag = &shown["tag"];
    assert_eq!(tag["name"], "v1");
    assert_eq!(tag["digest"], digest);
    assert_eq!(tag["signed"], false);
    assert_eq!(tag["createdTime"], tag["lastUpdateTime"]);
    registry.push_image("app", "v1", b"other").await;
    let again = registry.call("GET", "/acr/v1/app/_tags/v1").await.json();
    assert_eq!(again["tag"]["createdTime"], tag["createdTime"]);
    assert_ne!(again["tag"]["lastUpdateTime"], tag["lastUpdateTime"]);
    for time in ["createdTime", "lastUpdateTime"] {
        let text = again["tag"][time].as_str().expect("text");
        assert!(text.ends_with('Z') && text.len() <= "2018-09-07T16:30:46.6583219Z".len());
    }
}

#[actix_web::test]
async fn an_image_is_shown_with_size_and_platform_and_an_index_with_what_it_lists() {
    let registry = Registry::start().await;
    let config = json!({"architecture": "arm64", "os": "linux", "rootfs": {}}).to_string();
    let config_digest = registry.push_blob("app", config.as_bytes()).await;
    let layer = registry.push_blob("app", b"layer").await;
    let config_type = "application/vnd.oci.image.config.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config_type, "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "a/b", "digest": layer, "size": 5}],
    })
    .to_string();
    registry
        .put_manifest("app", "v1", OCI_MANIFEST, manifest.as_bytes())
        .await
        .is(201);
    let image = sha256(manifest.as_bytes());
    let platform = json!({"architecture": "arm64", "os": "linux"});
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": image, "size": manifest.len(), "platform": platform}],
    })
    .to_string();
    registry
        .put_manifest("app", "all", OCI_INDEX, index.as_bytes())
        .await
        .is(201);

    let path = format!("/acr/v1/app/_manifests/{image}");
    let shown = registry.call("GET", &path).await.is(200).json();
    let mut shown = shown["manifest"].clone();
    let times = shown.as_object_mut().expect("an object");
    assert_eq!(times.remove("createdTime"), times.remove("lastUpdateTime"));
    let expected = json!({
        "digest": image,
        "imageSize": manifest.len() + config.len() + 5,
        "mediaType": OCI_MANIFEST,
        "architecture": "arm64",
        "os": "linux",
        "configMediaType": config_type,
        "tags": ["v1"],
        "changeableAttributes": {
            "deleteEnabled": true, "writeEnabled": true, "readEnabled": true, "listEnabled": true,
        },
    });
    assert_eq!(shown, expected);

    let path = format!("/acr/v1/app/_manifests/{}", sha256(index.as_bytes()));
    let shown = registry.call("GET", &path).await.is(200).json();
    let shown = &shown["manifest"];
    assert_eq!(shown["imageSize"], index.len() + manifest.len());
    assert_eq!(
        shown["references"],
        json!([{"digest": image, "architecture": "arm64", "os": "linux"}])
    );
    assert!(shown.get("architecture").is_none());
}

#[actix_web::test]
async fn manifests_are_listed_by_digest_and_by_time_with_their_tags() {
    let registry = Registry::start().await;
    let mut pushed = Vec::new();
    for layer in ["one", "two", "three"] {
        pushed.push(registry.push_image("app", layer, layer.as_bytes()).await);
    }
    let mut by_digest = pushed.clone();
    by_digest.sort();
    let manifests = async |query: &str| {
        let start = format!("/acr/v1/app/_manifests?{query}");
        pages(&registry, &start, "manifests", "digest").await
    };
    assert_eq!(manifests("").await, [by_digest.clone()]);
    assert_eq!(
        manifests("n=2").await,
        [by_digest[..2].to_vec(), by_digest[2..].to_vec()]
    );
    assert_eq!(
        manifests("n=2&orderby=timeasc").await,
        [pushed[..2].to_vec(), pushed[2..].to_vec()]
    );
    pushed.reverse();
    assert_eq!(
        manifests("n=2&orderby=timedesc").await,
        [pushed[..2].to_vec(), pushed[2..].to_vec()]
    );
    registry
        .call("DELETE", "/acr/v1/app/_tags/one")
        .await
        .is(202);
    let body = registry
        .call("GET", "/acr/v1/app/_manifests?orderby=timeasc")
        .await
        .json();
    let tags: Vec<&Value> = body["manifests"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|manifest| &manifest["tags"])
        .collect();
    assert_eq!(tags, [&json!([]), &json!(["two"]), &json!(["three"])]);
}

#[actix_web::test]
async fn a_repository_is_shown_with_its_counts() {
    let registry = Registry::start().await;
    let first = registry.push_image("app", "v1", b"one").await;
    registry.push_image("app", "v2", b"one").await;
    registry.push_image("app", "v3", b"two").await;
    let counts = async || {
        let shown = registry.call("GET", "/acr/v1/app").await.is(200).json();
        assert_eq!(
            (&shown["registry"], &shown["imageName"]),
            (&json!(LOGIN_SERVER), &json!("app"))
        );
        assert!(shown["createdTime"].is_string() && shown["lastUpdateTime"].is_string());
        [shown["tagCount"].clone(), shown["manifestCount"].clone()]
    };
    assert_eq!(counts().await, [3, 2]);
    registry
        .call("DELETE", "/acr/v1/app/_tags/v1")
        .await
        .is(202);
    assert_eq!(counts().await, [2, 2]);
    registry
        .call("DELETE", "/acr/v1/app/_tags/v1")
        .await
        .refused(404, "TAG_UNKNOWN");
    let path = format!("/v2/app/manifests/{first}");
    registry.call("DELETE", &path).await.is(202);
    assert_eq!(counts().await, [1, 1]);
    let untagged = image_manifest(&[(&sha256(b"{}"), 2)], &[]);
    let digest = sha256(&untagged);
    registry
        .put_manifest("app", &digest, OCI_MANIFEST, &untagged)
        .await
        .is(201);
    assert_eq!(counts().await, [1, 2]);
}
