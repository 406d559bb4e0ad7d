"""Which image belongs to which split, for the sets whose files are not sorted by it.

GTAV: the split that its authors published, less 15 training frames of a single colour, as in RobustNet: 12,388 to train,
6,382 to validate, 6,181 to test on. SYNTHIA-RAND-CITYSCAPES: RobustNet's random split, 6,580 and 2,820.
"""

import base64
import re
from functools import lru_cache

_GTAV = """
t10e5t6v3t2v1t2e3t10v5t2v4t2v2e2t4v1t1v5e3v1t136v23e7t1e10t17v4t1v7t1v2t1v1t24v6t1v4t8e10t1e30v6t24v18t50e10t19
e3t22e6t6v8e12v19t3e7t18v3t19e2t26e6t59e7v15e7t48v9e10t9v7e19t4v17t3e2t31e2t4e1t45e16t13e32t56e4t18e5t19e71t2e10
v46t5v38t7v33t22v6e25t10v29t21v11t113e35t75e31v42t229e48t14e30t111e10t34e53v19t93e72t76v45t154e26v101t5v2e22v36
t8e6t94v17t56v5e19v32t50v29t13e28t3e1t66e31t36v33t65v123t14v14e46v1t63e42t13e13v122t71v5e13v6e39t1e7t29v21t8e2
t76e52t7e3t108e31v20t83v6t14v65e23t39e38t15v27t39e2t107e18t71e86t26v13e10v1t17v18e64t24e4t10e1t79v44t23v46t50v63
t35e31t56e1v5t69v44t43v88t41e1t42e38v9t249v40e10v32t6e1t47e30t10e27t51e63t74e76t30e61t80e2t35e10t24e61t10e2t5v19
t87v13e27v30t10e59v12t16v22t9v2t1v2t3v3t5e28t7v8t5e15t39e17t28v3t2v3t21v12t93e33v19t47e9t16v36t9e7t32e4t43e14t8
e26t57e10t12e1t36e8v22e61v101e76v157e45v172t114e203v42e7v1t19v8t45v122t41e55t55e3t50e4v7t6v4t74e18t120v50t72e3t1
e1t10e1t10e1t3e1t10e1t4e24v12e1v5e8v10e23t7e1t5e13t54e1t24e6t10v3t1v5t7e6t14e16t8e20t22v48e17v3e1v29e2v3e2v1e67
v3e30v98t48v69t39v41e72v22e19v43t25v116e2v100e17t62v60t234e66v84t374e8v34t49x1t5x2t23x3t1x1t6x7t11v5e20t95v85t28
v96t47e35t3e1t131e9t49e6t2e7t18e37t732v97t105v96t20e1t71e9t35e133t22e87t30e20v17e12t48e14t52e1t20e14t19e19t6v7
t56v40t57e64t38e74t4e5t1e231t1v4t80v2e18t104e110v6t52v110t12v2e62t79e24v65t49v64t66v60t14v9e26v1t42e12t4v48t44
e67t22v31t8v28t5v57t113v39e42v73e56t72v7e1v27e50t26e58v70e39v54t24e27v13t45e10t12v22t39v60t1e27t19e17v55e38v30
e29t26v1t2v1t1v2t9v88t42v43t12e10t3e32t52v36t135v2e23v20t12v57t2e22t17e51t20v36t17v51t41e23v48e35v39t69e25t74e1
t56e21t13e31v30t44v30t20v2e14v27t7v6e7t6e17t38e22t48e22t45e1v43t22e85v32t15e29t27e7t17e97t36v50t33v29t50x1t12v27
e18t30e1v16e2v2t7e4t27e3t23e2t3e7t19e16t31v10e7t23e4t6v13t15v6t14v7e31v9t76v20t2v28t20e13t2v8e15t5e6t34e10t10e15
t1v15t3e4v5e35v29t4v26t26e2v32e23v7t36e39t65e31t52e1t19e37t140e1v3t25v1e11v26t28v20e37t34e1v4t31v28t1v1t4v2t1v3
t1v4t18v6t1v7e3v32e15t14e2t21v10e12t3e2t27e13t8v33t64v28t32v34e15v41e36v1e19v12t6v10t2v2t1e7t1e3t1e2t20e14t8e1t3
e3t1e22v1e7v1e2v14e68t47e4t36e9t39v10t13e3v25t7e13t42e42t8v1t10v1t5v4t1v9e1t1e10t1e10t1e6t4v77e22t27e3t49v11e19
t40e17t17e1t15e7t44v1t3v1e6v1e2t8v1t86e12t28e5t72e7t10v12e23t15v21t30e11t87v1e32v13t7v22e63v17t87e13t56e1t44e26
t15v21t25v22t2v6e34v1e39t13v49e8v11t51v61e3v39t54v34t15v20t4v1t6e4t1e10t1e10t1e2t9v6t1v1t70e2t1v2t13e61t17e11t5
v17t41e23t28e7t11e11t11e25t17e2t39e29t61e11v18t11v41e5
"""
"""Frames 1 to 24,966 in order: the number of frames in a row of train (t), val (v), test (e), or of none (x)."""

_SYNTHIA = (
    "m<$Am3zIp8VI%^APzCJl5FB_W0gQ|Q0|CH<fLKvzp&Td@p)Ul_Km`H;NdUAIgIWNX3SmG1j4%v{5ey^?5;VY&fC8e7zzCjF01>SiloSHPapL"
    "3~CBR0D2+#l!;6VT)5n?n%6z~B6M*s+gFq?sA0E(d?f&xGe02qaZ9sJW2kg>D@M1(_55@LXZi3jBnq#!s#2w=%Xt>z>GM@Ircg%AX&SwOL|+"
    "6*WRAOKL66oG)+6(|&%a3cf{z`|w1)FXi*03phd<$^%6V9=ESF&1cm1Q3`UK%_tb4vax6asV~5U{K8gjHpC;K?6dD;sj)1P%zv?NdO`PRDci"
    "&kpO@J_YwpOS_l!qBn0IWvI5E*dnQW)00oegSXPjj;zLLf1q6Vo1psm+St<~#Y6*;hAVJ|EHbDSX01A(Ed;uiDH8ssZz<^*jCuj)-5m<tRI2"
    "{lY@S2E$0fZ_5iV+Zh1kC^m!vGNqlboo~1Q-g)U<6PNDG-3kM#+d)0MHPD&TPO*3I$+<7ow^VH9%w!0;EEMmB6@=M!*ta2u9dOQL9t1fDu4Y"
    "0|1DDs@jTxR)Ihq5CRC|h=3kMkwAhlL(oJ35{M!I1qz_Zf@uj9%mRo3VqiZ2#pKCMKoAkT2ncBwOHjuF5V{BmV32Z1P(THF6++s9KtKmf86r"
    "85Km#IY0|?9r(GWnBCUn603<wwujGZ6{2nNwd1Td<ICIZD$!4Xna1_mU8fD!-%5I~Ut4d8=_LV$x2QmGVx2vAC!Ou`HRD}seNKq0~)gj573A"
    "O(1u0;FtU-~}LYAVP~EB{R4{W`hg}Oag$S209>3oPrHFK*0<SGQu=2z!eC953%V0NfI#!1|UR4F#-VtUH~rOAQJ)*kN_ef1So(|P#i^~0VE("
    "a5JPbg06dKXxqPMIAr1j}kq=LV9RL{(2mk;?5ki0p7?xr<f~bLe6aeH#0EPn?(f|SovA`~53P=_P0ZbqP=)oikg1%zF5QTs^)GTBRf(Zd(z<"
    "?TPc^n$xU?>8>LLgAw7-2vtC_>-@AS84Mpaeod5dl(#nZ+SGVp+!ufI)#>R@lY}O#n<7ATiYdfJEaYfH}B=WdIfcNPwuv)qp?+NMZz%p&TfH"
    "01g8oDWP<bXaWEfB9TA@W!k_DEF*LP$e`vx6BP=80R%zHAQ@!>P(TE29?;A%0>ywr1rvbNa41v|fPerY!5jr;1_Bj|P(e@*1~8BiAO?7_4Uo"
    "Ygpv(pWIfjG|AOPUp2EhtIH~>wgX8=ekl_dz0LLdM_Hk5RMg@srw7@-6}I)*?OSAZDYH4y-;CQwLJ6#)SN7@~-@kN^w7ML-OOgb)m*#4I2H7"
    "{Uk$mq80J2%r!+kdTDLfSdp;1Q-%Q1VFqDB!B=RBuIlnA_Buiwh=gh00V{t6Tv0`3E_bRVP;YYf>a^~01f~sF#=%`BpX7`k|+mL2!dKr#xMz"
    "DfC8w~01Ol@hhRp51c6n8<^x0+Kq&|T002;k00By%P#{PkfGQva2Ru^|ui1hC*-)4"
)
"""Images 0 to 9,399 as bits, base 85; a set bit is val."""


@lru_cache(maxsize=1)
def gtav() -> dict[str, frozenset[str]]:
    """Names without ending of GTAV's frames, by split; `full` has all 24,966, those of a single colour, too."""
    frames: dict[str, set[str]] = {"t": set(), "v": set(), "e": set(), "x": set()}
    number = 1
    for split, count in re.findall(r"([tvex])(\d+)", _GTAV):
        frames[split].update(f"{frame:05d}" for frame in range(number, number + int(count)))
        number += int(count)
    splits = {"train": frames["t"], "val": frames["v"], "test": frames["e"], "full": set().union(*frames.values())}
    return {name: frozenset(members) for name, members in splits.items()}


@lru_cache(maxsize=1)
def synthia() -> dict[str, frozenset[str]]:
    """Names without ending of SYNTHIA's images, by split."""
    packed = base64.b85decode("".join(_SYNTHIA))
    is_val = [bool(packed[i // 8] >> (7 - i % 8) & 1) for i in range(9400)]
    names = [f"{i:07d}" for i in range(9400)]
    return {
        "train": frozenset(name for name, val in zip(names, is_val, strict=True) if not val),
        "val": frozenset(name for name, val in zip(names, is_val, strict=True) if val),
        "full": frozenset(names),
    }
