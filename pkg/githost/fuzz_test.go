package githost_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/githost"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// shelf is a store with one empty repository, where no push ever comes in time.
type shelf struct{ build.Store }

func (shelf) FindRepository(context.Context, string, bool) (build.Repository, error) {
	return build.Repository{}, nil
}

func (shelf) FindSource(context.Context, string) (build.Source, error) {
	return build.Source{ID: "s", Hosted: true}, nil
}

func (shelf) ChangeRepository(context.Context, string, int64, build.RepositoryChange) error {
	return errs.New(errs.Conflict, "kiln.source.ref_moved", "too late")
}

func (shelf) InTx(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }

func line(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

// Whatever somebody who may push sends is answered or refused, within the limits and without a panic.
func FuzzRequests(f *testing.F) {
	zero, one := strings.Repeat("0", 40), strings.Repeat("1", 40)
	for _, seed := range []string{
		"0000", line(zero+" "+one+" refs/heads/main\x00report-status side-band-64k") + "0000PACK\x00\x00\x00\x02\x00\x00\x00\x01",
		line("want "+one+" multi_ack_detailed side-band-64k\n") + line("deepen 1\n") + "0000" + line("have "+one+"\n") + line("done\n"),
		line("shallow "+one) + "0000", "fffffff", line(one + " " + zero + " refs/heads/main\x00"), line("ERR x"), "0004", "0005a",
	} {
		f.Add([]byte(seed))
	}
	h := githost.New(githost.Config{
		Builds: &build.Service{Store: shelf{}, Desk: job.Desk{Tx: shelf{}, Now: time.Now}}, Limits: packs.Limits{MaxBytes: 1 << 20},
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		who := githost.Pusher{Name: "ada", Link: func(build.Build) string { return "" }}
		for what, serve := range map[string]func() error{
			"push":  func() error { return h.Receive(t.Context(), build.Source{ID: "s"}, who, bytes.NewReader(data), &out) },
			"fetch": func() error { return h.Upload(t.Context(), build.Source{ID: "s"}, bytes.NewReader(data), &out) },
		} {
			if err := serve(); err != nil && errs.KindOf(err) == errs.Internal {
				t.Fatalf("%s: %v", what, err)
			}
		}
		objects, err := packs.Open(build.Repository{}, packs.Limits{MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := objects.Add(data); err == nil && !bytes.HasPrefix(data, []byte("PACK")) {
			t.Error("this is no pack")
		}
	})
}
