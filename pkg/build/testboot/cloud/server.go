package cloud

import (
	"bytes"
	"compress/gzip"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// maxUserData is what Nova takes: 65535 characters of base64
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/api/openstack/compute/schemas/servers.py, user_data).
const maxUserData = 65535 / 4 * 3

// server is the machine of one boot.
type server struct {
	*Booter
	project, key string
	plan         testboot.Plan
	test         build.BootTest
	id           string
	watch        *testboot.Watch
	seen         string // of the console
}

func (s *server) create(ctx context.Context, flavorID string) error {
	script, err := userData(s.plan)
	if err != nil {
		return err
	}
	until := s.cfg.Now().Add(2*s.cfg.Timeouts.Boot + s.plan.TestTime() + 2*cleanTime)
	s.id, err = s.cfg.Nova.CreateTestServer(ctx, s.project, NewServer{
		Name: "kiln-test-boot", ImageID: s.test.ImageID, FlavorID: flavorID, NetworkID: s.cfg.Network, Zone: s.cfg.Zone, UserData: script,
		Metadata: map[string]string{KeyBootTest: s.key, KeyUntil: strconv.FormatInt(until.Unix(), 10)},
	})
	return err
}

// userData is the plan's script, packed where it is long: cloud-init unpacks it.
func userData(p testboot.Plan) ([]byte, error) {
	if !p.CloudInit {
		return nil, nil
	}
	script := p.UserData()
	if len(script) <= maxUserData/2 {
		return script, nil
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(script)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, testboot.CodeHost, "The tests cannot be packed.")
	}
	if packed.Len() > maxUserData {
		return nil, errs.New(errs.Invalid, testboot.CodeTests, "The recipe's tests have %d bytes packed; Nova takes %d.", packed.Len(), maxUserData).
			At(errs.Where{Field: "tests"})
	}
	return packed.Bytes(), nil
}

// follow waits for the server, then for what its console shows.
func (s *server) follow(ctx context.Context) error {
	if err := s.started(ctx); err != nil {
		return err
	}
	s.watch = testboot.NewWatch(s.plan, s.test.Log, s.test.Progress)
	return s.reading(ctx, func(ended <-chan struct{}) error { return s.watch.Wait(ctx, ended, s.cfg.Timeouts) })
}

// reading gives the console to the watch while f runs. ended is closed when the machine is off.
func (s *server) reading(ctx context.Context, f func(ended <-chan struct{}) error) error {
	inner, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		s.readConsole(inner, ended)
	}()
	err := f(ended)
	stop()
	<-read
	return err
}

// started waits until Nova has started the machine. What goes wrong until then is nothing that the image's system did.
func (s *server) started(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, s.cfg.Timeouts.Boot)
	defer stop()
	for {
		v, err := s.cfg.Nova.Server(ctx, s.project, s.id)
		switch {
		case ctx.Err() != nil:
			return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), testboot.CodeCloud, "Nova has not started the test server.")
		case err != nil:
			return err
		case v.Status == "ACTIVE":
			return nil
		case v.Status == "ERROR":
			return errs.New(errs.Unavailable, testboot.CodeCloud, "Nova cannot start the test server: %s", v.Fault).After(time.Minute)
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.cfg.Poll):
		}
	}
}

// readConsole gives the watch what is new, until ctx ends or the machine is off.
func (s *server) readConsole(ctx context.Context, ended chan struct{}) {
	for {
		v, stateErr := s.cfg.Nova.Server(ctx, s.project, s.id)
		text, err := s.cfg.Nova.Console(ctx, s.project, s.id, 0)
		switch {
		case err == nil:
			s.watch.Write([]byte(fresh(s.seen, text))) //nolint:errcheck // it never fails
			s.seen = text
		case ctx.Err() == nil && !errs.Is(err, errs.Conflict):
			s.cfg.Log.WithError(err).WithField("server", s.id).Debug("the console cannot be read now")
		}
		if errs.Is(stateErr, errs.NotFound) || stateErr == nil && v.Status != "ACTIVE" && v.Status != "REBOOT" {
			close(ended)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.cfg.Poll):
		}
	}
}

// overlap is how much of the old end is looked for in the new text.
const overlap = 512

// fresh is what text has more than seen. Nova gives the end of the console, of at most 100 KiB
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/virt/libvirt/driver.py, MAX_CONSOLE_BYTES), so its
// beginning moves away.
func fresh(seen, text string) string {
	if rest, ok := strings.CutPrefix(text, seen); ok {
		return rest
	}
	end := seen[max(0, len(seen)-overlap):]
	if i := strings.LastIndex(text, end); i >= 0 {
		return text[i+len(end):]
	}
	return text
}
