// Package baddays proves that Kiln outlives bad input and bad days: the separate programs as real processes, on a
// real MariaDB and a real RabbitMQ that the tests kill, with the pocket cloud as OpenStack.
//
// It needs root, Go, and the Debian packages mariadb-server, rabbitmq-server, qemu-utils, e2fsprogs, mmdebstrap and
// crun. In -short mode every test skips.
package baddays

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/testkit/mariadb"
	"github.com/kiln-cloud/kiln/pkg/testkit/rabbitmq"
)

// shared is what the tests of this package have in common: the programs, a database server and a broker. The tests
// run one after the other, because some of them kill those.
var shared struct {
	bin   string
	start sync.Once
	err   error
	mysql *mariadb.Server
	bus   *rabbitmq.Server
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) (status int) {
	if testing.Short() {
		return m.Run()
	}
	bin, err := os.MkdirTemp("", "kiln-baddays-")
	if err == nil {
		shared.bin = bin
		defer os.RemoveAll(bin)
		err = compile(bin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}()
	return m.Run()
}

func compile(bin string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "../../cmd/kiln-api", "../../cmd/kiln-engine", "../../cmd/kiln-worker",
		"../../cmd/kiln-agent", "../../cmd/kiln-manage")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

func remove() error {
	var err error
	if shared.mysql != nil {
		err = shared.mysql.Remove()
	}
	if shared.bus != nil {
		err = errors.Join(err, shared.bus.Remove())
	}
	return err
}

// servers gives the database server and the broker, both running.
func servers(t *testing.T) (*mariadb.Server, *rabbitmq.Server) {
	t.Helper()
	shared.start.Do(func() {
		var wg sync.WaitGroup
		var dbErr, busErr error
		wg.Go(func() { shared.mysql, dbErr = mariadb.Launch() })
		wg.Go(func() { shared.bus, busErr = rabbitmq.Launch() })
		wg.Wait()
		shared.err = errors.Join(dbErr, busErr)
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	for _, s := range []interface {
		Running() bool
		Start() error
	}{shared.mysql, shared.bus} {
		if s.Running() {
			continue
		}
		if err := s.Start(); err != nil { // the test before ended in the middle
			t.Fatal(err)
		}
	}
	return shared.mysql, shared.bus
}

// needAll skips in -short mode, and fails where the machine lacks what the tests need.
func needAll(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, MariaDB, RabbitMQ and the programs as processes")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
}

// files names what lies below a folder, without the folders.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}
