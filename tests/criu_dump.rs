use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use scx_mosix::migration::{criu, freeze, pages, process};

#[tokio::test(flavor = "multi_thread")]
#[ignore]
async fn dump_without_pages() {
    let base = std::env::var("CG").unwrap();
    let cg = std::path::PathBuf::from(base).join(format!("t{}", std::process::id()));
    std::fs::create_dir(&cg).unwrap();
    let mut child = Command::new("setsid").args(["python3", "-c", "import time\nx=bytearray(b'x')*(200<<20)\ni=0\nwhile True:\n i+=1\n time.sleep(0.01)"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::fs::write(cg.join("cgroup.procs"), child.id().to_string()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let program = criu::Program::find().unwrap();
    println!("{program:?} {:?}", criu::check(&program).await);
    let images = tempfile::tempdir_in("/dev/shm").unwrap();
    for _ in 0..2 {
        let t = Instant::now();
        let frozen = freeze::freeze(&cg).await.unwrap();
        println!("frozen {:?}", t.elapsed());
        let r = criu::dump(&program, &criu::DumpRequest { pid: child.id() as i32, enter: None, cgroup: &cg, images: images.path(), limit: Duration::from_secs(20) }).await;
        println!("dump {r:?} {:?} frozen {:?}", t.elapsed(), freeze::is_frozen(&cg));
        println!("{}", std::fs::read_to_string(images.path().join("criu.log")).unwrap());
        r.unwrap();
        let processes = process::members(&cg).unwrap();
        let plan = pages::plan(images.path(), &processes).unwrap();
        println!("{processes:?} {} areas {} bytes", plan.len(), plan.iter().map(|a| a.range.bytes()).sum::<u64>());
        let t = Instant::now();
        let sent = pages::send(plan, &mut tokio::io::sink(), |_| {}).await.unwrap();
        println!("sent {sent:?} {:?}", t.elapsed());
        let size: u64 = std::fs::read_dir(images.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        println!("images {size} bytes");
        frozen.thaw().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none());
    }
    child.kill().unwrap(); child.wait().unwrap();
    std::fs::remove_dir(&cg).unwrap();
}
