// Package rabbitmq gives tests a real RabbitMQ (Debian package rabbitmq-server): a private broker with ports and
// state of its own, that a test may kill and start again, or the one that KILN_TEST_RABBIT_URL names.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

// EnvURL names a broker for tests: "amqp://user:pw@127.0.0.1:5672/".
const EnvURL = "KILN_TEST_RABBIT_URL"

var shared struct {
	sync.Mutex
	server *Server
	users  int
}

// New gives the URL of a broker that the tests of this process share. They must choose names of their own for
// queues. The private broker goes when the last test that uses it ends.
func New(t *testing.T) string {
	t.Helper()
	real.Uses(t, real.RabbitMQ)
	if u := os.Getenv(EnvURL); u != "" {
		return u
	}
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
	return shared.server.URL()
}

// Server is one private broker.
type Server struct {
	dir              string
	port, dist, epmd int
	cmd              *exec.Cmd
	done             chan error
}

// StartServer starts a broker of the test's own, which ends with the test.
func StartServer(t *testing.T) *Server {
	t.Helper()
	real.Uses(t, real.RabbitMQ)
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

// Transport is URL as OpenStack services have it in [DEFAULT] transport_url.
func (s *Server) Transport() string { return "rabbit" + strings.TrimPrefix(s.URL(), "amqp") }

// URL is the broker's address with its test user.
func (s *Server) URL() string { return "amqp://kiln:kiln@127.0.0.1:" + strconv.Itoa(s.port) + "/" }

// Launch starts a broker that lives until Remove, for the tests of a package that share one.
func Launch() (*Server, error) {
	dir, err := os.MkdirTemp("", "kiln-rabbit-")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{dir: dir, port: ports[0], dist: ports[1], epmd: ports[2]}
	if err := errors.Join(s.configure(), s.Start()); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // all stay open until the last is chosen, so that they differ
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, fmt.Errorf("%v is not a TCP address", l.Addr())
		}
		ports = append(ports, addr.Port)
	}
	return ports, nil
}

func (s *Server) configure() error {
	conf := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\ndefault_user = kiln\ndefault_pass = kiln\ndisk_free_limit.absolute = 10MB\nvm_memory_high_watermark.relative = 0.9\n", s.port)
	return errors.Join(
		os.WriteFile(filepath.Join(s.dir, "rabbitmq.conf"), []byte(conf), 0o600),
		os.WriteFile(filepath.Join(s.dir, "plugins"), []byte("[].\n"), 0o600),
	)
}

// Start starts the broker on its kept state and waits until it answers.
func (s *Server) Start() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// The script itself, not Debian's wrapper in PATH, which changes to the user rabbitmq.
	cmd := exec.CommandContext(context.Background(), "/usr/lib/rabbitmq/bin/rabbitmq-server")
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + s.dir,
		"RABBITMQ_NODENAME=kiln" + strconv.Itoa(s.port) + "@localhost",
		"RABBITMQ_CONFIG_FILE=" + s.dir + "/rabbitmq.conf",
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + s.dir + "/plugins",
		"RABBITMQ_MNESIA_BASE=" + s.dir + "/mnesia",
		"RABBITMQ_LOG_BASE=" + s.dir + "/logs",
		"RABBITMQ_LOGS=-",
		"RABBITMQ_PID_FILE=" + s.dir + "/pid",
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(s.dist),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none",
		"ERL_EPMD_PORT=" + strconv.Itoa(s.epmd),
		"ERL_EPMD_ADDRESS=127.0.0.1",
	}
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: the script, the Erlang machine and its helpers end together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return fmt.Errorf("rabbitmq-server (Debian package rabbitmq-server): %w", err)
	}
	s.cmd, s.done = cmd, make(chan error, 1)
	go func() { s.done <- cmd.Wait() }()
	return s.wait()
}

func (s *Server) wait() error {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		conn, err := amqp.DialConfig(s.URL(), amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
		if err == nil {
			return conn.Close()
		}
		select {
		case exit := <-s.done:
			s.done <- exit
			return fmt.Errorf("rabbitmq-server ended: %w\n%s", errors.Join(exit, err), s.logEnd())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("rabbitmq-server did not answer in two minutes: %w\n%s", err, s.logEnd())
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

// Kill is kill -9 of the broker; its state stays.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Stop ends the broker in order; it is safe to repeat.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Freeze stops the broker from running without ending it, and Thaw lets it go on: a peer that is silent.
func (s *Server) Freeze() error { return s.signal(syscall.SIGSTOP) }

// Thaw is the end of Freeze.
func (s *Server) Thaw() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	if s.cmd == nil {
		return os.ErrProcessDone
	}
	return syscall.Kill(-s.cmd.Process.Pid, sig)
}

func (s *Server) end(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	pid := s.cmd.Process.Pid
	s.cmd = nil
	if err := syscall.Kill(-pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	// The script may end before the Erlang machine: wait for the whole group.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if errors.Is(syscall.Kill(-pid, 0), syscall.ESRCH) {
			return nil
		}
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// Running tells whether the broker was started and not ended by the test since.
func (s *Server) Running() bool { return s.cmd != nil }

// Remove ends everything and deletes the state. The port mapper (epmd) is a daemon of its own group; it is found
// by the port that only this broker uses.
func (s *Server) Remove() error {
	err := s.Stop()
	return errors.Join(err, s.endPortMapper(), os.RemoveAll(s.dir))
}

func (s *Server) endPortMapper() error {
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	want := "ERL_EPMD_PORT=" + strconv.Itoa(s.epmd) + "\x00"
	for _, p := range procs {
		env, err := os.ReadFile(p)
		if err != nil || !strings.Contains(string(env), want) || !strings.Contains(string(env), "HOME="+s.dir+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		if err != nil {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}
