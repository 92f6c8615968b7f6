package keystone_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity/keystone"
)

// desk knows one secret, and counts who asks.
type desk struct {
	asked   atomic.Int64
	expires time.Time
	away    atomic.Bool
}

func (d *desk) CredentialToken(_ context.Context, id, secret string) (string, time.Time, error) {
	n := d.asked.Add(1)
	switch {
	case d.away.Load():
		return "", time.Time{}, errs.New(errs.Unavailable, "kiln.keystone.away", "away")
	case secret != "right":
		return "", time.Time{}, errs.New(errs.Unauthenticated, "kiln.identity.bad_credential", "no")
	}
	return id + " " + strconv.FormatInt(n, 10), d.expires, nil
}

func TestLoginsAreKeptForAWhile(t *testing.T) {
	now := time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)
	d := &desk{expires: now.Add(time.Hour)}
	l := keystone.NewLogins(d, keystone.Config{Keep: 5 * time.Minute, KeepBad: 10 * time.Second, Entries: 50, Clock: func() time.Time { return now }})
	login := func(id, secret string) string {
		t.Helper()
		token, err := l.Login(t.Context(), id, secret)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	var wg sync.WaitGroup
	for range 8 { // one question for all who wait
		wg.Go(func() {
			if _, err := l.Login(context.WithoutCancel(t.Context()), "a", "right"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if token := login("a", "right"); token != "a 1" || d.asked.Load() != 1 {
		t.Fatalf("%s after %d questions", token, d.asked.Load())
	}
	for range 3 {
		if _, err := l.Login(t.Context(), "a", "wrong"); !errs.Is(err, errs.Unauthenticated) {
			t.Fatal(err)
		}
	}
	if n := d.asked.Load(); n != 2 {
		t.Errorf("a wrong secret was asked for %d times", n-1)
	}
	now = now.Add(6 * time.Minute)
	d.away.Store(true)
	for range 2 {
		if _, err := l.Login(t.Context(), "a", "right"); !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
	}
	d.away.Store(false)
	if n := d.asked.Load(); n != 4 {
		t.Errorf("that Keystone is away was believed: %d questions", n)
	}
	login("a", "right")
	now = now.Add(53*time.Minute + 30*time.Second) // less than a minute of the token is left
	d.expires = now.Add(time.Hour)
	if token := login("a", "right"); token != "a 6" {
		t.Errorf("a token near its end was given: %s", token)
	}
	for i := range 500 { // guesses do not fill the memory, nor push out what is good
		_, _ = l.Login(t.Context(), "guess", strconv.Itoa(i))
	}
	if token := login("a", "right"); token != "a 6" {
		t.Errorf("guesses pushed a login out: %s", token)
	}
}
