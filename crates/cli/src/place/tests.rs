use super::*;

#[test]
fn clients_find_the_services_of_their_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::private(dir.path());
    assert_eq!(place.orchestrator().unwrap().url, "http://127.0.0.1:7432");
    assert_eq!(place.metrics_url(), "http://127.0.0.1:7431");
    let services = Services {
        pid: 1,
        metrics: "http://127.0.0.1:1".to_owned(),
        orchestrator: "http://127.0.0.1:2".to_owned(),
    };
    services.save(dir.path()).unwrap();
    assert_eq!(Services::load(dir.path()), Some(services));
    assert_eq!(place.orchestrator().unwrap().url, "http://127.0.0.1:2");
    let named = Place {
        orchestrator: Some("http://elsewhere:3".to_owned()),
        ..place
    };
    assert_eq!(named.orchestrator().unwrap().url, "http://elsewhere:3");
    Services::remove(dir.path()).unwrap();
    Services::remove(dir.path()).unwrap();
    assert_eq!(Services::load(dir.path()), None);
}
