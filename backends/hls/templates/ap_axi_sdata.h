/* Stand-in for the vendor's header of AXI4-Stream words, for simulation with an ordinary compiler. It has what the
   projects use: data, its valid bytes, and the mark of the last word of a packet. */
#ifndef QCC_AP_AXI_SDATA_H
#define QCC_AP_AXI_SDATA_H

#include <ap_int.h>

template <int D, int U, int TI, int TD> struct ap_axiu {
  static_assert(U == 0 && TI == 0 && TD == 0, "side channels are not used");
  ap_uint<D> data;
  ap_uint<(D + 7) / 8> keep, strb;
  ap_uint<1> last;
};

#endif
