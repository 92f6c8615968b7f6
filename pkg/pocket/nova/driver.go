package nova

import (
	"context"
	"errors"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// driver runs the guests of one node.
type driver interface {
	// spawn makes the guest run; a *buildError tells Nova's own words for a failure.
	spawn(ctx context.Context, images wire.Images, caller wire.Caller, i instance) error
	destroy(i instance) // of a guest that is not there: nothing
	start(ctx context.Context, i instance) error
	stop(i instance) error
	console(i instance) ([]byte, error)
	close()
}

// fakeDriver is nova.virt.fake: no image, no disk, no process.
type fakeDriver struct{}

func (fakeDriver) spawn(context.Context, wire.Images, wire.Caller, instance) error { return nil }
func (fakeDriver) destroy(instance)                                                {}
func (fakeDriver) start(context.Context, instance) error                           { return nil }
func (fakeDriver) stop(instance) error                                             { return nil }
func (fakeDriver) close()                                                          {}

// console is what nova.virt.fake prints.
func (fakeDriver) console(instance) ([]byte, error) {
	return []byte("FAKE CONSOLE OUTPUT\nANOTHER\nLAST LINE"), nil
}

var errNoGuest = errors.New("the guest is not running")
