// Package documents holds what generated programs import, so that it is installed before they are.
package documents

import (
	_ "github.com/oapi-codegen/runtime"
	_ "github.com/oapi-codegen/runtime/types"
)
