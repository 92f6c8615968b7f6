// Package mariadb gives each test a fresh database on a real MariaDB. It starts one private server for the test
// binary (Debian package mariadb-server), or uses the server that KILN_TEST_MYSQL_DSN names.
package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// EnvDSN names a server for tests, without a database: "root:pw@tcp(127.0.0.1:3306)/".
const EnvDSN = "KILN_TEST_MYSQL_DSN"

var shared struct {
	sync.Mutex
	server *Server
	users  int
}

// New makes a database and gives its DSN (go-sql-driver's form). The database goes when the test ends, the
// private server when the last test that uses it ends.
func New(t *testing.T) string {
	t.Helper()
	real.Uses(t, real.MariaDB)
	base := os.Getenv(EnvDSN)
	if base == "" {
		base = share(t).DSN()
	}
	return create(t, base)
}

func share(t *testing.T) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := Launch()
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
	}
	shared.users++
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		shared.users--
		if shared.users == 0 {
			s := shared.server
			shared.server = nil
			if err := s.Remove(); err != nil {
				t.Error(err)
			}
		}
	})
	return shared.server
}

func create(t *testing.T, base string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(base)
	if err != nil {
		t.Fatalf("%s: %v", EnvDSN, err)
	}
	name := newName()
	if err := admin(base, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin(base, "DROP DATABASE "+name); err != nil {
			t.Error(err)
		}
	})
	cfg.DBName = name
	return cfg.FormatDSN()
}

// admin runs one statement. The test's own context is over when databases are dropped.
func admin(dsn, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement)
	return errors.Join(err, db.Close())
}

// Server is one private server that a test may kill and start again.
type Server struct {
	dir  string
	cmd  *exec.Cmd
	done chan error
}

// StartServer starts a server of the test's own, which ends with the test.
func StartServer(t testing.TB) *Server {
	t.Helper()
	real.Uses(t, real.MariaDB)
	s, err := Launch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Launch starts a server that lives until Remove, for the tests of a package that share one.
func Launch() (*Server, error) {
	dir, err := os.MkdirTemp("", "kiln-mariadb-") // a socket's path must be short
	if err != nil {
		return nil, err
	}
	s, err := start(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// Remove ends the server and deletes its data.
func (s *Server) Remove() error { return errors.Join(s.Stop(), os.RemoveAll(s.dir)) }

// Running tells whether the server was started and not ended by the test since.
func (s *Server) Running() bool { return s.cmd != nil }

// DSN is the server's, without a database.
func (s *Server) DSN() string { return "root@unix(" + s.dir + "/sock)/" }

// NewDatabase makes a database on the server and gives its DSN. It goes with the server.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.DBName = newName()
	if err := admin(s.DSN(), "CREATE DATABASE "+cfg.DBName); err != nil {
		t.Fatal(err)
	}
	return cfg.FormatDSN()
}

// Connection writes the DSN of one of the server's databases as OpenStack services have it in [database] connection.
func (s *Server) Connection(t *testing.T, dsn string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return "mysql+pymysql://" + cfg.User + "@localhost/" + cfg.DBName + "?unix_socket=" + cfg.Addr
}

func newName() string { return "kiln_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16] }

func start(dir string) (*Server, error) {
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return nil, err
	}
	install := exec.CommandContext(context.Background(), "mariadb-install-db", "--no-defaults", "--datadir="+dir+"/data", "--user="+account(),
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
	install.Env = append(os.Environ(), temporary(dir))
	if out, err := install.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mariadb-install-db (Debian package mariadb-server): %w\n%s", err, out)
	}
	s := &Server{dir: dir}
	return s, s.Start()
}

// temporary is the setting of the server's own folder for temporary tables: a server that starts deletes those of others.
func temporary(dir string) string { return "TMPDIR=" + filepath.Join(dir, "tmp") }

// account is who the server runs as: it refuses root unless told so.
func account() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "root"
}

// Start starts the server on its kept data and waits until it answers.
func (s *Server) Start() error {
	path, err := exec.LookPath("mariadbd")
	if err != nil {
		path = "/usr/sbin/mariadbd"
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// Flushing to the kernel (2) is what a kill -9 of the server needs to lose nothing; the disk itself is not tested.
	cmd := exec.CommandContext(context.Background(), path, "--no-defaults", "--datadir="+s.dir+"/data", "--user="+account(),
		"--socket="+s.dir+"/sock", "--pid-file="+s.dir+"/pid", "--skip-networking", "--skip-log-bin", "--performance-schema=OFF",
		"--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=32M", "--max-connections=400")
	cmd.Env = append(os.Environ(), temporary(s.dir))
	cmd.Stdout, cmd.Stderr = log, log
	// The server must not outlive a test binary that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return err
	}
	s.cmd, s.done = cmd, make(chan error, 1)
	go func() { s.done <- cmd.Wait() }()
	return s.wait()
}

func (s *Server) wait() error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := admin(s.DSN(), "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case exit := <-s.done:
			s.done <- exit
			return fmt.Errorf("mariadbd ended: %w\n%s", errors.Join(exit, err), s.logEnd())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("mariadbd did not answer in a minute: %w\n%s", errors.Join(err, s.Kill()), s.logEnd())
		}
	}
}

func (s *Server) logEnd() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// Kill is kill -9; the data stays.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Stop ends the server in order; it is safe to repeat.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

func (s *Server) end(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	cmd := s.cmd
	s.cmd = nil
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case exit := <-s.done:
		s.done <- exit
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(fmt.Errorf("mariadbd did not end on %s", sig), cmd.Process.Kill())
	}
}
