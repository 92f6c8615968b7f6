package native_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/buildtest"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// anew lets builds that are to be stopped in their middle use no earlier result: with them the middle may be over
// before anybody can stop it. Those are what the suite's children do, and what watches its log.
type anew struct{ *native.Builder }

func (a anew) Build(ctx context.Context, req build.Request) (build.Result, error) {
	_, kept := req.Log.(*bytes.Buffer)
	req.Fresh = os.Getenv("KILN_TEST_BUILD_DIR") != "" || req.Log != nil && !kept
	return a.Builder.Build(ctx, req)
}

func TestContract(t *testing.T) {
	t.Setenv("KILN_TEST_LAYERS", layersDir(t)) // for the children that are killed
	buildtest.Run(t, buildtest.Harness{
		Builder: anew{builder(t)}, Kernel: "cloud-amd64", Cancel: "== base",
		Kill: []buildtest.Moment{{Line: "== base", Program: "apt-get"}, {Line: "Setting up libc6", Program: "dpkg"}},
		Other: func(req build.Request) build.Request {
			r := *req.Recipe
			r.From = recipe.From{Release: "trixie"}
			req.Recipe = &r
			return req
		},
	})
}
