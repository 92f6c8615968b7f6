package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

// tree makes a root file system with busybox.
func tree(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, crun and busybox-static")
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "usr/sbin", "proc", "dev", "etc", "tmp", "run", "root", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755)
	}
	if err != nil {
		t.Fatalf("install busybox-static: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), "chroot", dir, "/bin/busybox", "--install", "/bin").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func run(t *testing.T, spec sandbox.Spec, script string) (string, error) {
	t.Helper()
	var out strings.Builder
	spec.Args, spec.Stdout, spec.Stderr = []string{"/bin/sh", "-c", script}, &out, &out
	if spec.Limits.Time == 0 {
		spec.Limits.Time = time.Minute
	}
	err := sandbox.Run(t.Context(), spec)
	return out.String(), err
}

func TestCommandSeesOnlyTheImage(t *testing.T) {
	dir := tree(t)
	t.Setenv("KILN_TEST_SECRET", "leaked")
	if err := os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, sandbox.Spec{Rootfs: dir, Env: []string{"GIVEN=yes"}}, `
		env | sort; id -u; pwd; ls /; ls /dev; ls -A /sys 2>&1; echo pids $(ls /proc | grep -c '^[0-9]'); hostname
		cat /proc/mounts; touch /written; cat /usr/sbin/policy-rc.d`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, bad := range []string{"leaked", "SECRET", t.TempDir(), "vda", "loop0", "loop-control", "sda", "http_proxy"} {
		for line := range strings.SplitSeq(out, "\n") {
			if strings.Contains(line, bad) && !strings.Contains(line, " / ") && !strings.Contains(line, "policy-rc.d") {
				t.Errorf("the command saw %q in %q", bad, line)
			}
		}
	}
	for _, want := range []string{"GIVEN=yes", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "HOME=/root", "\nkiln\n", "exit 101"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "written")); err != nil {
		t.Error("what the command wrote is not in the image")
	}
	if _, err := os.Lstat(filepath.Join(dir, "usr/sbin/policy-rc.d")); err == nil {
		t.Error("the bind's target stayed in the image")
	}
}

// TestWaysOutAreClosed tries each thing that the sandbox forbids; a script line that succeeds is a failure.
func TestWaysOutAreClosed(t *testing.T) {
	dir := tree(t)
	for _, try := range []string{
		"mount -t tmpfs x /var", "mount -o remount,rw /proc/sys", "umount /proc", "mknod /dev/h b 254 0", "mknod /var/h b 254 0", "unshare -m true", "unshare -U true",
		"unshare -n true", "nsenter -t 1 -m true", "insmod /bin/busybox", "echo b >/proc/sysrq-trigger", "echo x >/proc/sys/kernel/core_pattern",
		"reboot -f", "swapon /bin/busybox", "adjtimex -f 1", "dmesg", "hostname other", "cat /proc/kcore | head -c 1 | grep -q .",
		"ip link add v type dummy", "chroot /proc/1/root/.. ls /work", "nsenter -t 1 -n true", "losetup /dev/loop0 /bin/busybox", "test -e /dev/mem", "ip route add default via 127.0.0.2",
	} {
		if out, err := run(t, sandbox.Spec{Rootfs: dir}, try+" && echo DONE"); errs.CodeOf(err) != sandbox.CodeExit || strings.Contains(out, "DONE") {
			t.Errorf("%s: %v %q", try, err, out)
		}
	}
}

func TestNetworkIsTheProxyAlone(t *testing.T) {
	dir := tree(t)
	proxy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "asked for %s", r.URL)
	})
	out, err := run(t, sandbox.Spec{Rootfs: dir, Proxy: proxy}, "wget -q -O - http://mirror.example.org/debian/x; echo; env | grep proxy")
	if err != nil || !strings.Contains(out, "asked for http://mirror.example.org/debian/x") || !strings.Contains(out, "http_proxy=http://127.0.0.1:3142") {
		t.Fatalf("%v %q", err, out)
	}
	srv := httptest.NewServer(proxy) // a service of the host on its loopback
	defer srv.Close()
	host := strings.Replace(strings.TrimPrefix(srv.URL, "http://"), ":", " ", 1)
	for _, try := range []string{"nc -w 2 " + host, "nc -w 2 192.0.2.1 80", "nc -w 2 127.0.0.1 22", "nc -w 2 169.254.169.254 80"} {
		if out, err := run(t, sandbox.Spec{Rootfs: dir, Proxy: proxy}, try+" </dev/null"); errs.CodeOf(err) != sandbox.CodeExit {
			t.Errorf("%s: %v %q", try, err, out)
		}
	}
	if out, err := run(t, sandbox.Spec{Rootfs: dir}, "wget -q -T 2 -O - http://127.0.0.1:3142/"); errs.CodeOf(err) != sandbox.CodeExit {
		t.Errorf("without a proxy: %v %q", err, out)
	}
}

func TestFailuresAreNamed(t *testing.T) {
	dir := tree(t)
	_, err := run(t, sandbox.Spec{Rootfs: dir}, "echo before; printf 'the \\033[31mreason\\n' >&2; exit 7")
	if errs.CodeOf(err) != sandbox.CodeExit || !strings.Contains(err.Error(), "exit code 7") || !strings.Contains(err.Error(), "before") || !strings.Contains(err.Error(), "the [31mreason") {
		t.Errorf("exit: %v", err)
	}
	start := time.Now()
	_, err = run(t, sandbox.Spec{Rootfs: dir, Limits: sandbox.Limits{Time: time.Second}}, "sleep 1000 & exec sleep 1000")
	if errs.CodeOf(err) != sandbox.CodeTimeout || errs.KindOf(err) != errs.Timeout || time.Since(start) > 20*time.Second {
		t.Errorf("time: %v after %s", err, time.Since(start))
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	err = sandbox.Run(ctx, sandbox.Spec{Rootfs: dir, Args: []string{"/bin/sleep", "1000"}})
	if errs.CodeOf(err) != sandbox.CodeCancelled || errs.KindOf(err) != errs.Cancelled {
		t.Errorf("cancel: %v", err)
	}
	err = sandbox.Run(t.Context(), sandbox.Spec{Rootfs: dir, Args: []string{"/bin/nothing-there"}})
	if errs.CodeOf(err) != sandbox.CodeRuntime || !strings.Contains(err.Error(), "nothing-there") {
		t.Errorf("no program: %v", err)
	}
	_, err = run(t, sandbox.Spec{Rootfs: dir, Limits: sandbox.Limits{MemoryBytes: 64 << 20}}, "dd if=/dev/zero of=/tmp/x bs=1M count=500")
	if errs.CodeOf(err) != sandbox.CodeMemory {
		t.Errorf("memory: %v", err)
	}
	if err := sandbox.Run(t.Context(), sandbox.Spec{Rootfs: "/", Args: []string{"/bin/true"}}); errs.CodeOf(err) != sandbox.CodeSpec {
		t.Errorf("the host as the image: %v", err)
	}
}

func TestForkBombIsBoundedAndEnds(t *testing.T) {
	dir := tree(t)
	out, err := run(t, sandbox.Spec{Rootfs: dir, Limits: sandbox.Limits{Time: 3 * time.Second, Processes: 64}},
		`i=0; while [ $i -lt 500 ]; do sleep 4242 & i=$((i+1)); done; echo started all; wait`)
	if err == nil || strings.Contains(out, "started all") {
		t.Fatalf("500 processes ran with a limit of 64: %v %q", err, out)
	}
	if errs.CodeOf(err) != sandbox.CodeProcesses && !strings.Contains(err.Error(), "limit of 64 processes") {
		t.Errorf("the reason does not name the limit: %v", err)
	}
	if left := processes(t, "sleep\x004242"); left != 0 {
		t.Fatalf("%d processes are left", left)
	}
}

// processes counts those of the host whose command line contains text.
func processes(t *testing.T, text string) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), text) {
			n++
		}
	}
	return n
}

func TestNoSyncAndRootDisk(t *testing.T) {
	dir := tree(t)
	if err := os.WriteFile(filepath.Join(dir, "usr/sbin/grub-probe"), []byte("#!/bin/sh\necho real\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const uuid = "0b6cd3d1-9a1f-4d56-9d0f-2f1d0a6c0001"
	hooks := filepath.Join(dir, "usr/share/initramfs-tools/conf-hooks.d")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	const script = "sync && /usr/sbin/grub-probe --target=fs_uuid / && /usr/sbin/grub-probe -t fs /boot && test -e /dev/disk/by-uuid/" + uuid + "\n" +
		"FSTYPE=auto; . /usr/share/initramfs-tools/conf-hooks.d/kiln-root; echo $FSTYPE; FSTYPE=jfs,vfat; . /usr/share/initramfs-tools/conf-hooks.d/kiln-root; echo $FSTYPE"
	for fs, want := range map[string]string{"": "ext2\next4", "ext3": "ext2\next3", "xfs": "xfs\nxfs", "x$(id)": "xid\nxid"} {
		out, err := run(t, sandbox.Spec{Rootfs: dir, NoSync: true, RootDisk: &sandbox.RootDisk{UUID: uuid, FSType: fs}}, script)
		if err != nil || out != uuid+"\n"+want+"\njfs,vfat\n" {
			t.Fatalf("%q: %v %q", fs, err, out)
		}
	}
	if left, err := os.ReadDir(hooks); err != nil || len(left) != 0 {
		t.Errorf("stayed in the image: %v %v", left, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "usr/sbin/grub-probe")); !strings.Contains(string(b), "real") {
		t.Fatal("the image's grub-probe was overwritten")
	}
}

func TestBindsAndStdin(t *testing.T) {
	dir, host := tree(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "f"), []byte("from the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, sandbox.Spec{Rootfs: dir, Stdin: strings.NewReader("typed\n"), Dir: "/var", Binds: []sandbox.Bind{
		{Source: host, Target: "/ro", ReadOnly: true}, {Source: host, Target: "/rw"}}},
		"cat /ro/f; cat; pwd; touch /rw/g; touch /ro/h || echo refused")
	if err != nil || !strings.HasPrefix(out, "from the host\ntyped\n/var\n") || !strings.HasSuffix(out, "refused\n") {
		t.Fatalf("%v %q", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "ro")); err == nil {
		t.Error("the bind's target stayed in the image")
	}
}

func TestRunsInAMountOfASession(t *testing.T) {
	dir := tree(t)
	work := t.TempDir()
	s, err := disk.OpenSession(t.Context(), work)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.MountTmpfs(t.Context(), 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", dir+"/.", m.HostPath()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := run(t, sandbox.Spec{Session: s, Rootfs: m.Path()}, "echo inside >/var/f"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if b, err := os.ReadFile(m.HostPath() + "/var/f"); err != nil || string(b) != "inside\n" {
		t.Fatalf("%q %v", b, err)
	}
	if err := s.Close(); err != nil { // fails if a namespace of the sandbox still held the mount
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(work); len(left) != 0 {
		t.Fatalf("left in the work folder: %v", left)
	}
}

// TestKilledProcessTakesTheSandboxAlong runs this test as a child that runs a sandbox, and kills the child with -9.
func TestKilledProcessTakesTheSandboxAlong(t *testing.T) {
	dir := os.Getenv("KILN_TEST_TREE")
	if dir != "" {
		sandbox.Run(t.Context(), sandbox.Spec{Rootfs: dir, Stdout: os.Stdout,
			Args: []string{"/bin/sh", "-c", "sleep 31337 & setsid sleep 31337 & sleep 1; echo ready; sleep 31337"}})
		return
	}
	dir = tree(t)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledProcessTakesTheSandboxAlong$")
	child.Env = append(os.Environ(), "KILN_TEST_TREE="+dir, "TMPDIR="+t.TempDir())
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	if n := processes(t, "sleep\x0031337"); n != 3 {
		t.Fatalf("%d processes run; the test would prove nothing", n)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, out)
	child.Wait()
	for end := time.Now().Add(2 * time.Second); processes(t, "31337") != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 2 s %d processes are left", processes(t, "31337"))
		}
	}
}
