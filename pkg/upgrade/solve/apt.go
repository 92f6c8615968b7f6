package solve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// apt sees the plan's own folder and the shared one in place of the host's own: in a mount namespace, so that it may run
// as nobody although both are below a folder that only this process's user may enter, so that the names in its shared
// cache are the same in every plan, and so that nothing of the host's own apt is there.
const (
	privatePath = "/var/lib/apt"
	sharedPath  = "/var/cache/apt"
)

// enter lays the folders "$1" and "$2" and runs the rest.
const enter = `mount --bind -- "$1" ` + privatePath + `; mount --bind -- "$2" ` + sharedPath + `; shift 2; exec "$@"`

// asNobody runs a program without rights and without network: what it reads was written by the image's owner.
var asNobody = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"}

// aptTime bounds one run of apt.
const aptTime = 5 * time.Minute

// maxOutput bounds what apt may say, in bytes. A plan of 10,000 packages has 3 MB.
const maxOutput = 32 << 20

// aptRun is how apt is run: in a folder of the plan's own, with lists that plans share.
type aptRun struct {
	private, shared string
	archs           []string
	log             io.Writer
	root            bool // fills the shared folder, from the network
}

// layPrivate makes a plan's own folder below work.
func layPrivate(work string, status, extended []byte, prefs map[string][]byte) (string, error) {
	dir := filepath.Join(work, "apt")
	for _, sub := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "state", "cache/archives/partial", "tmp", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
	}
	files := map[string][]byte{"status": status, "state/extended_states": extended}
	for name, text := range prefs {
		files["etc/preferences.d/"+name] = text
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// conf is apt's whole configuration: Dir comes from APT_CONFIG, which is read before the machine's own files, and those
// are then not looked for. The options are those under which the upgrade itself is done (pkg/upgrade/offline).
func (a aptRun) conf() string {
	quoted := make([]string, len(a.archs))
	for i, arch := range a.archs {
		quoted[i] = `"` + arch + `";`
	}
	return fmt.Sprintf(`Dir "%[1]s/";
Dir::State "%[1]s/state/";
Dir::State::status "%[1]s/status";
Dir::State::lists "%[2]s/lists/";
Dir::Cache "%[1]s/cache/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "%[2]s/srcpkgcache.bin";
Dir::Etc "%[1]s/etc/";
Dir::Etc::sourcelist "%[2]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Log "%[1]s/log/";
APT::Architecture "%[3]s";
APT::Architectures { %[4]s };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::AutomaticRemove "false";
APT::Get::AllowUnauthenticated "false";
APT::Get::Show-User-Simulation-Note "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "false";
Acquire::Retries "2";
Acquire::ForceHash "SHA256";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Debug::NoLocking "true";
`, privatePath, sharedPath, a.archs[0], strings.Join(quoted, " "))
}

// run runs one of apt's programs and gives what it printed. Its fault is an *aptError.
func (a aptRun) run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, aptTime)
	defer cancel()
	conf := filepath.Join(a.private, "apt.conf")
	if err := os.WriteFile(conf, []byte(a.conf()), 0o644); err != nil {
		return "", errs.Wrap(err, errs.Internal, CodeHost, "the work folder cannot be filled")
	}
	line := []string{"unshare", "--mount", "--ipc"}
	if !a.root {
		line = append(line, "--net")
	}
	line = append(line, "--", "sh", "-ec", enter, "sh", a.private, a.shared)
	if !a.root {
		line = append(line, asNobody...)
	}
	line = append(append(line, name), args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/nonexistent", "TMPDIR=" + privatePath + "/tmp", "APT_CONFIG=" + privatePath + "/apt.conf"}
	var out, said bounded
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&said, a.log)
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	switch {
	case err == nil && !out.cut:
		return out.String(), nil
	case err == nil:
		return "", &aptError{said: "its answer is too long"}
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "", errs.Wrap(err, errs.Internal, CodeHost, "%s is needed to plan upgrades: install util-linux", line[0])
	}
	return "", &aptError{err: err, said: said.String(), out: out.String()}
}

// aptError is what apt said when it failed.
type aptError struct {
	err       error
	said, out string
}

func (e *aptError) Error() string {
	var lines []string
	for line := range strings.SplitSeq(e.said, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "N:") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-8):], "; ")
}

func (e *aptError) Unwrap() error { return e.err }

// aptFailed gives apt's failure a kind and a code; a cancel, a deadline and a fault of this host keep theirs.
func aptFailed(err error, kind errs.Kind, code, format string, args ...any) error {
	if _, ok := errors.AsType[*aptError](err); !ok {
		return err
	}
	return errs.Wrap(err, kind, code, format, args...)
}

// bounded keeps the first bytes of what is written.
type bounded struct {
	bytes.Buffer
	cut bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); len(p) > room {
		b.cut = true
		b.Buffer.Write(p[:room])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
