// Package testboot boots images that nobody sees yet and runs their recipes' tests. QEMU does it on this machine;
// testboot/cloud does it with a server in a quarantine project. Both speak with the guest by the serial console alone:
// cloud-init starts one script (Plan.UserData), which reports in framed lines that Watch reads.
package testboot

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Codes of the errors of test boots. They never change.
const (
	CodeBoot  = "kiln.build.boot_test"      // the image did not come up, or its tests failed
	CodeTests = "kiln.build.boot_tests"     // the tests cannot be run in this image, or cannot be read
	CodeHost  = "kiln.build.boot_host"      // what boots images here does not work; nothing was learnt of the image
	CodeCloud = "kiln.build.boot_cloud"     // the cloud could not start the server
	CodeStop  = "kiln.build.boot_cancelled" // the context ended
)

// DefaultTimeout is that of a test which names none.
const DefaultTimeout = 5 * time.Minute

// What one test boot may ask for.
const (
	maxTests     = 64
	maxTestBytes = 64 << 10
)

// Tests reads the commands of a recipe's tests. errs.Invalid names the test's field.
func Tests(r *recipe.Recipe, files recipe.Files) ([]build.BootCommand, error) {
	var out []build.BootCommand
	for i, t := range r.Tests {
		at := func(field string) errs.Where {
			return errs.Where{File: r.Path, Field: fmt.Sprintf("tests[%d].%s", i, field)}
		}
		c := build.BootCommand{Name: t.Name, Text: t.Run, Timeout: DefaultTimeout}
		if t.Source != "" {
			text, err := fs.ReadFile(files, t.Source)
			if err != nil {
				return nil, errs.Wrap(err, errs.Invalid, CodeTests, "The test %q names the file %s, which cannot be read.", t.Name, t.Source).At(at("source"))
			}
			c.Text = string(text)
		}
		if len(c.Text) > maxTestBytes {
			return nil, errs.New(errs.Invalid, CodeTests, "The test %q has %d bytes; the limit is %d.", t.Name, len(c.Text), maxTestBytes).At(at("run"))
		}
		if t.Timeout != "" {
			d, err := time.ParseDuration(t.Timeout)
			if err != nil || d < time.Second {
				return nil, errs.New(errs.Invalid, CodeTests, "%q is not a time of at least a second; write for example 90s or 5m.", t.Timeout).At(at("timeout"))
			}
			c.Timeout = d
		}
		out = append(out, c)
	}
	if len(out) > maxTests {
		return nil, errs.New(errs.Invalid, CodeTests, "The recipe has %d tests; the limit is %d.", len(out), maxTests).At(errs.Where{File: r.Path, Field: "tests"})
	}
	return out, nil
}

// Plan is what one boot has to show.
type Plan struct {
	Nonce     string // marks the lines of this boot's script
	CloudInit bool   // false: the login prompt is all that can be waited for
	Tests     []build.BootCommand
}

// NewPlan checks what is asked for and makes the nonce. errs.Invalid where there are tests and nothing in the image
// that would run them.
func NewPlan(t build.BootTest) (Plan, error) {
	p := Plan{CloudInit: t.Facts != nil && t.Facts.CloudInit, Tests: t.Tests}
	if !p.CloudInit && len(t.Tests) > 0 {
		return p, errs.New(errs.Invalid, CodeTests,
			"The recipe has tests (%s), and tests need cloud-init in the image: add cloud_init.datasources, or the package cloud-init.", names(t.Tests)).
			At(errs.Where{Field: "tests"})
	}
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return p, errs.Wrap(err, errs.Internal, CodeHost, "No random number could be read.")
	}
	p.Nonce = hex.EncodeToString(nonce)
	return p, nil
}

func names(tests []build.BootCommand) string {
	all := make([]string, len(tests))
	for i, t := range tests {
		all[i] = t.Name
	}
	return strings.Join(all, ", ")
}

// TestTime bounds all that comes after the system is up.
func (p Plan) TestTime() time.Duration {
	total := 2 * time.Minute
	for _, t := range p.Tests {
		total += t.Timeout + 20*time.Second
	}
	return total
}
